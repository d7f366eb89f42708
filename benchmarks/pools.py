"""Which pool gives the best students? The same time of preparation, the same finetuning.

    python benchmarks/pools.py --workdir pools                      # the example's network
    python benchmarks/pools.py --workdir pools --network tinynet_e  # timm's, trained first
    python benchmarks/pools.py --workdir pools --table              # what has been found so far

For each pool the ops that are cheaper than what they replace are built, fitted and distilled for
`--minutes` of CPU time. Of fresh ops a draw takes part, the same for all pools: `--fresh` among those
with fewer flops than their slot's own, as many from each slot; where the time is too short for `--least`
samples each, the last drawn are left out. What inherits is never left out. What a student is worth is
its top-1 on Fashion-MNIST's test images against its latency in ONNX Runtime, timed in turn with the
teacher's.

Rows are written as they come. A run that was killed goes on where it was; pools may run in one process
each. All pools of a network share one workspace: an op costs the same in all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "fashion_mnist")]

from data import FashionMnist  # noqa: E402 - the paths come first

import lanac  # noqa: E402
from lanac.backends import onnxruntime  # noqa: E402
from lanac.beginning import begin  # noqa: E402
from lanac.compilation import Compilation  # noqa: E402
from lanac.compiler import choose_plan  # noqa: E402
from lanac.errors import InfeasibleBudgetError  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.instruments import Advance, Instruments  # noqa: E402
from lanac.ir import TEACHER, OpSpec  # noqa: E402
from lanac.ops.base import CountedFamily, SlotView  # noqa: E402
from lanac.ops.folding import folded  # noqa: E402
from lanac.ops.pool import NAMED_POOLS, needs_distillation, parse_pool  # noqa: E402
from lanac.passes import (  # noqa: E402
    DistillCandidates,
    EnumeratePool,
    FinetuneStudent,
    MeasureCosts,
    PrunePool,
    ScoreCandidates,
    run_passes,
)
from lanac.passes.time_finalists import target_inputs  # noqa: E402
from lanac.targets import Timing, count_flops, parse_budgets, sampler, time_interleaved  # noqa: E402
from lanac.training.finetune import FinetuneOptions, measure  # noqa: E402
from lanac.workspace import Workspace  # noqa: E402

POOLS = {
    "skip": "skip",
    "inherit": "inherit",
    "everything": "inherit,paper",
    "paper": "paper",
}
BUDGETS = "0.35x,0.5x,0.25x"
BATCH = 64
HEAD = (
    "| network | pool | ops tried | samples | preparation | budget | latency | top-1 | loss | plan |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Trained:
    """A trained network and its data."""

    model: nn.Module
    train: Any
    test: Any


def example(images: int) -> Trained:
    file = load_model_file(ROOT / "examples" / "fashion_mnist" / "model.py")
    return Trained(file.model, some(file.train_data, images), file.val_data)


class Enlarged(torch.utils.data.Dataset[Any]):
    """Images of 56 x 56 pixels: timm's networks divide by 32."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        return image.repeat_interleave(2, 1).repeat_interleave(2, 2), label


def of_timm(name: str, images: int, epochs: int, workdir: Path) -> Trained:
    """A network of timm, trained on all images on first use."""
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
    return Trained(model.eval(), some(train, images), test)


def some(data: Any, images: int) -> Any:
    chosen = random.Random(0).sample(range(len(data)), min(images, len(data)))
    return torch.utils.data.Subset(data, chosen)


@dataclass
class Stopwatch(Instruments):
    """Says what goes on, and notes when the steps of each piece of work were done."""

    steps: dict[str, list[float]] = field(default_factory=dict)

    def pass_started(self, name: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)

    def say(self, message: str) -> None:
        print(f"  {message}", flush=True)

    warn = say

    @contextlib.contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
        times = self.steps[what.split()[0]] = [time.process_time()]
        yield lambda steps: times.append(time.process_time())


@dataclass(frozen=True)
class DrawOps:
    """Of the fresh ops with fewer flops than their slot's own, keeps some drawn at random.

    Attributes:
        fresh: how many, as many from each slot.
    """

    fresh: int
    name = "draw_ops"
    needs = ("program", "pool")
    provides = ("pool",)

    def run(self, compilation: Compilation) -> Compilation:
        drawn = set(draw(compilation)[: self.fresh])
        pool = {
            name: tuple(op for op in ops if not is_fresh(op) or (name, op) in drawn)
            for name, ops in compilation.need("pool").items()
        }
        return compilation.having(pool=pool)


def is_fresh(op: OpSpec) -> bool:
    return op != TEACHER and op.family not in NAMED_POOLS["inherit"]


def draw(compilation: Compilation) -> list[tuple[str, OpSpec]]:
    """The fresh ops worth a try by their flops, in a random order, the slots taking turns."""
    turns: list[list[tuple[str, OpSpec]]] = []
    for slot in compilation.need("program").slots:
        view = SlotView.of(compilation.need("program"), slot)
        own = count_flops(view.teacher, (torch.zeros(slot.input_spec.with_batch(1).shape),))
        ops = []
        for op in filter(is_fresh, compilation.need("pool")[slot.name]):
            family = compilation.families.get(op.family)
            assert isinstance(family, CountedFamily)  # all of the paper's are
            if family.count(op, view).flops < own:
                ops.append((slot.name, op))
        random.Random(slot.name).shuffle(ops)
        turns.append(ops)
    longest = max(map(len, turns))
    return [ops[turn] for turn in range(longest) for ops in turns if turn < len(ops)]


def choose_work(
    pruned: Compilation, seconds: float, least: int, most: int = 1 << 14
) -> tuple[Compilation, int]:
    """What is distilled in that many seconds: the pool, and the samples that each op sees.

    A short run tells what is paid for once (building, least squares) and what a step takes.
    """
    if not trained_ops(pruned):
        return pruned, BATCH
    watch = Stopwatch()
    start = time.process_time()
    trial = DistillCandidates(samples=4 * BATCH, batch=BATCH)
    # In a workspace of its own: what another pool's trial has left would take no time.
    apart = Workspace(pruned.out / "trial")
    run_passes(replace(pruned, instruments=watch, workspace=apart), [trial])
    times = watch.steps["distilling"]
    once, step = times[0] - start, (times[-1] - times[1]) / (len(times) - 2)
    samples = int(BATCH * (seconds - once) / step)
    print(f"  once {once:.0f} s, a step {step:.2f} s: {samples} samples in {seconds:.0f} s")
    if samples >= least:
        return pruned, min(samples, most)
    # As if every op took the same time.
    share = seconds / (once + step * least / BATCH)
    pool = pruned.need("pool")
    ordered = [(name, op) for name, op in draw(pruned) if op in pool[name]]
    count = max(0, len(ordered) - round((1 - share) * len(trained_ops(pruned))))
    kept = set(ordered[:count])
    fewer = {
        name: tuple(op for op in ops if not is_fresh(op) or (name, op) in kept)
        for name, ops in pool.items()
    }
    return pruned.having(pool=fewer), least


def trained_ops(compilation: Compilation) -> list[tuple[str, OpSpec]]:
    pool = compilation.need("pool")
    return [(name, op) for name, ops in pool.items() for op in ops if needs_distillation(op)]


def prepare(
    task: Trained, pool: str, out: Path, notes: dict[str, Any], arguments: argparse.Namespace
) -> Compilation:
    """From the pool to scores; how much is done is decided once and noted."""
    torch.set_num_threads(1)
    begun = begin(
        task.model, train_data=task.train, val_data=task.test, budget=BUDGETS, out=out,
        workspace=arguments.workdir / f"{arguments.network}.workspace", instruments=Stopwatch(),
    )  # fmt: skip
    listed = run_passes(begun, [EnumeratePool(tuple(parse_pool(pool)))])
    listing = [DrawOps(arguments.fresh), MeasureCosts(), PrunePool()]
    pruned = run_passes(listed, listing)
    if "samples" not in notes:
        chosen, samples = choose_work(pruned, 60 * arguments.minutes, arguments.least)
        notes["samples"] = samples
        notes["pool"] = {n: list(map(str, ops)) for n, ops in chosen.need("pool").items()}
        total = sum(len(ops) - 1 for ops in listed.need("pool").values())
        notes["tried"] = f"{sum(len(ops) - 1 for ops in chosen.need('pool').values())} of {total}"
    pool_of = {
        name: tuple(op for op in ops if str(op) in notes["pool"][name])
        for name, ops in pruned.need("pool").items()
    }
    start = time.process_time()
    distilled = run_passes(
        pruned.having(pool=pool_of), [DistillCandidates(notes["samples"], BATCH)]
    )
    notes.setdefault("minutes", (time.process_time() - start) / 60)
    return run_passes(distilled, [ScoreCandidates(arguments.score, 128)])


def students(
    prepared: Compilation, task: Trained, arguments: argparse.Namespace, done: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row of the table per budget that is not done."""
    settings = lanac.Settings(plans=8, evaluate_images=2048)
    options = FinetuneOptions(epochs=arguments.epochs)
    teacher = measure(task.model, task.model, prepared.task, prepared.task.val, prepared.device)
    for budget in parse_budgets(BUDGETS):
        if str(budget) in done:
            continue
        try:
            chosen = choose_plan(replace(prepared, budget=budget), settings)
        except InfeasibleBudgetError as error:
            yield {"budget": str(budget), "missed": str(error)}
            continue
        student = run_passes(chosen, [FinetuneStudent(options)])
        module = student.need("student").module
        top1 = measure(module, task.model, prepared.task, prepared.task.val, prepared.device)
        latency, own = timed(prepared, module)
        yield {
            "budget": str(budget),
            "latency": latency.median_ms / own.median_ms,
            "teacher_ms": own.median_ms,
            "top1": top1,
            "teacher": teacher,
            "before": student.need("chosen").loss,
            "plan": list(map(str, student.need("chosen").plan.ops)),
        }


def timed(prepared: Compilation, module: nn.Module) -> tuple[Timing, Timing]:
    """Latency of a student and of its teacher, in turn."""
    program, threads = prepared.need("program"), prepared.target.threads
    inputs = target_inputs(program, prepared.target.batch)
    runs = [
        onnxruntime.timed_run(onnxruntime.export_for_timing(network, inputs), inputs, threads)
        for network in (folded(module), program.teacher)
    ]
    student, teacher = time_interleaved([sampler(run, threads == 1) for run in runs], rounds=101)
    return student, teacher


def run(task: Trained, name: str, arguments: argparse.Namespace) -> None:
    """All rows of a pool, each written as it comes."""
    file = arguments.workdir / f"{arguments.network}-{name}.json"
    notes = json.loads(file.read_text()) if file.exists() else {"rows": []}
    done = [row["budget"] for row in notes["rows"]]
    if len(done) == len(parse_budgets(BUDGETS)):
        return
    prepared = prepare(
        task, POOLS[name], arguments.workdir / f"{arguments.network}-{name}", notes, arguments
    )
    file.write_text(json.dumps(notes, indent=1))
    for row in students(prepared, task, arguments, done):
        notes["rows"].append(row)
        file.write_text(json.dumps(notes, indent=1))
        print(HEAD, *lines(arguments.network, name, {**notes, "rows": [row]}), sep="\n", flush=True)


def lines(network: str, name: str, notes: dict[str, Any]) -> Iterator[str]:
    head = f"| {network} | {name} | {notes['tried']} | {notes['samples']} | {notes['minutes']:.1f} min |"
    for row in notes["rows"]:
        if "missed" in row:
            yield f"{head} {row['budget']} | cannot be met | | | |"
            continue
        lost = row["teacher"] - row["top1"]
        yield (
            f"{head} {row['budget']} | {row['latency']:.3f}x | {row['top1']:.2f} % | "
            f"{lost:+.2f} | {families(row['plan'])} |"
        )


def families(plan: Sequence[str]) -> str:
    """How many slots of a plan each family fills."""
    names = [op.split("(")[0] for op in plan]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(sorted(names)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--network", default="example", help="example, or a name of timm")
    parser.add_argument("--pools", default=",".join(POOLS))
    parser.add_argument("--minutes", type=float, default=2.5, help="of building and distilling")
    parser.add_argument("--fresh", type=int, default=160, help="fresh ops that are drawn")
    parser.add_argument("--least", type=int, default=1024, help="samples that an op learns from")
    parser.add_argument("--score", type=int, default=512, help="samples that ops are scored on")
    parser.add_argument("--images", type=int, default=10000, help="training images")
    parser.add_argument("--epochs", type=int, default=2, help="of finetuning")
    parser.add_argument("--teacher-epochs", type=int, default=3, help="of a network of timm")
    parser.add_argument("--table", action="store_true", help="print what has been found, no more")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    if arguments.table:
        print(HEAD)
        for file in sorted(arguments.workdir.glob("*-*.json")):
            network, name = file.stem.rsplit("-", 1)
            print(*lines(network, name, json.loads(file.read_text())), sep="\n")
        return
    torch.set_num_threads(1)
    if arguments.network == "example":
        task = example(arguments.images)
    else:
        task = of_timm(
            arguments.network, arguments.images, arguments.teacher_epochs, arguments.workdir
        )
    for name in arguments.pools.split(","):
        run(task, name, arguments)


if __name__ == "__main__":
    main()
