"""Which pool gives the best students? The same time of preparation, the same finetuning.

    python benchmarks/pools.py --workdir pools                      # the example's network
    python benchmarks/pools.py --workdir pools --network tinynet_e  # timm's, trained first

For each pool all ops that are cheaper than what they replace are distilled and scored for
`--minutes`. Where that is less than `--least` samples for each, as in the paper's pool, as many ops as
the time allows are drawn. What a network is worth is its top-1 on Fashion-MNIST's test images against
its latency as ONNX, measured beside the teacher's.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "fashion_mnist")]

from data import FashionMnist  # noqa: E402 - the paths come first

import lanac  # noqa: E402
from lanac.beginning import begin  # noqa: E402
from lanac.errors import InfeasibleBudgetError  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.ir import IDENTITY, TEACHER  # noqa: E402
from lanac.ops.pool import parse_pool  # noqa: E402
from lanac.passes import (  # noqa: E402
    DistillCandidates,
    EnumeratePool,
    MeasureCosts,
    PrunePool,
    run_passes,
)
from lanac.targets import parse_budgets  # noqa: E402

POOLS = {
    "skip": "skip",
    "paper": "paper",
    "inherit": "inherit",
    "everything": "inherit,paper",
}
BUDGETS = "0.5x,0.35x,0.25x"


@dataclass(frozen=True)
class Task:
    """A trained network and its data."""

    name: str
    model: nn.Module
    train: Any
    test: Any


def example(images: int) -> Task:
    file = load_model_file(ROOT / "examples" / "fashion_mnist" / "model.py")
    return Task("the example's ResNet", file.model, some(file.train_data, images), file.val_data)


class Enlarged(torch.utils.data.Dataset[Any]):
    """Images of 56 x 56 pixels: timm's networks divide by 32."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        return image.repeat_interleave(2, 1).repeat_interleave(2, 2), label


def of_timm(name: str, images: int, epochs: int, workdir: Path) -> Task:
    """A network of timm, trained on first use."""
    import timm
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = timm.create_model(name, in_chans=1, num_classes=10)
    train, test = Enlarged(FashionMnist("train", shift=1)), Enlarged(FashionMnist("t10k"))
    weights = workdir / f"{name}.safetensors"
    if not weights.exists():
        loader = torch.utils.data.DataLoader(train, batch_size=128, shuffle=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
        steps = epochs * len(loader)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for epoch in range(epochs):
            for inputs, labels in loader:
                loss = nn.functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            print(
                f"{name}: epoch {epoch + 1} of {epochs}, loss {float(loss.detach()):.3f}",
                flush=True,
            )
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    model.load_state_dict(load_file(weights))
    return Task(f"timm's {name}", model.eval(), some(train, images), test)


def some(data: Any, images: int) -> Any:
    chosen = random.Random(0).sample(range(len(data)), min(images, len(data)))
    return torch.utils.data.Subset(data, chosen)


def affordable(
    task: Task, pool: str, out: Path, seconds: float, least: int
) -> tuple[str, int, int, int]:
    """The pool as text, samples to distill with, and how many of how many ops are tried.

    Two short runs tell what a sample costs, and what is paid for once (building, least squares).
    """
    begun = begin(task.model, train_data=task.train, val_data=task.test, budget=BUDGETS, out=out)
    listing = [EnumeratePool(tuple(parse_pool(pool))), MeasureCosts(), PrunePool()]
    pruned = run_passes(begun, listing)
    ops = {op for ops in pruned.need("pool").values() for op in ops} - {TEACHER, IDENTITY}
    count = sum(len(ops) - 1 for ops in pruned.need("pool").values())
    if not ops:
        return pool, least, count, count
    times = []
    for samples in (64, 192):
        start = time.perf_counter()
        run_passes(pruned, [DistillCandidates(samples=samples, batch=64)])
        times.append(time.perf_counter() - start)
    slope = max((times[1] - times[0]) / 128, 1e-4)
    fixed = max(times[0] - 64 * slope, 0.0)
    samples = int((seconds - fixed) / slope)
    if samples >= least:
        return pool, min(samples, 16384), count, count
    share = seconds / (fixed + slope * least)
    kept = random.Random(0).sample(sorted(ops, key=str), max(1, int(share * len(ops))))
    text = ",".join(["identity", *map(str, kept)])
    return text, least, int(share * count), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--network", default="example", help="example, or a name of timm")
    parser.add_argument("--pools", default=",".join(POOLS))
    parser.add_argument("--minutes", type=float, default=5, help="of distilling, for each pool")
    parser.add_argument("--least", type=int, default=1024, help="samples that an op learns from")
    parser.add_argument("--images", type=int, default=60000, help="training images, all of them")
    parser.add_argument("--epochs", type=int, default=2, help="of finetuning")
    parser.add_argument("--teacher-epochs", type=int, default=6, help="of a network of timm")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    task = (
        example(arguments.images)
        if arguments.network == "example"
        else of_timm(
            arguments.network, arguments.images, arguments.teacher_epochs, arguments.workdir
        )
    )
    print(f"{task.name}, {len(task.train)} training images, {arguments.epochs} epochs", flush=True)
    print("| pool | ops tried | samples | preparation | budget | latency | top-1 | loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in arguments.pools.split(","):
        for line in lines(task, name, arguments):
            print(line, flush=True)


def lines(task: Task, name: str, arguments: argparse.Namespace) -> list[str]:
    """A row of the table per budget."""
    out = arguments.workdir / f"{arguments.network}-{name}"
    pool, samples, tried, count = affordable(
        task, POOLS[name], out, 60 * arguments.minutes, arguments.least
    )
    settings = lanac.Settings(
        distill_samples=samples, score_samples=1024, finetune_epochs=arguments.epochs
    )
    start = time.perf_counter()
    students: tuple[lanac.Compilation, ...] = ()
    with contextlib.suppress(InfeasibleBudgetError):  # none of the budgets can be met
        students = lanac.compile(
            task.model, train_data=task.train, val_data=task.test, budget=BUDGETS, pool=pool,
            out=out, settings=settings,
        ).students  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    head = f"| {name} | {tried} of {count} | {samples} | {minutes:.1f} min in all |"
    rows = []
    for student in students:
        found = student.need("outputs")
        ratio = found.latency.median_ms / found.teacher_latency.median_ms
        rows.append(
            f"{head} {student.budget} | {ratio:.3f}x | {100 * found.metric:.2f} % | "
            f"{100 * (found.teacher_metric - found.metric):+.2f} |"
        )
    met = {str(student.budget) for student in students}
    missed = [str(budget) for budget in parse_budgets(BUDGETS) if str(budget) not in met]
    return rows + [f"{head} {budget} | cannot be met | | |" for budget in missed]


if __name__ == "__main__":
    main()
