"""How close do ops that inherit weights come to their slot without training, and what does it cost?

    python benchmarks/inherit.py                    # errors on the example's teacher, a few minutes
    python benchmarks/inherit.py --network tinynet_e --workdir pools   # on the one of pools.py
    python benchmarks/inherit.py --time efficientnet_b2 --size 224 --images 512

Errors: |op(x) - t(x)|^2 / |t(x)|^2 on test images, of the weights as they are inherited and after least
squares on training images; for each op the mean over the slots that have it. Times: fitting all
inheriting ops of a network (random weights: only the shapes matter), as a share of one training epoch
over the same images; CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "fashion_mnist"), str(ROOT / "benchmarks")]

from pools import Trained, example, of_timm  # noqa: E402

from lanac.frontend.build import build_program  # noqa: E402 - the paths come first
from lanac.ir import OpSpec, Program  # noqa: E402
from lanac.ops.base import FAMILIES, SlotView  # noqa: E402
from lanac.ops.build import build_op  # noqa: E402
from lanac.targets import count_flops  # noqa: E402
from lanac.training.capture import SlotCapture, collect_inputs  # noqa: E402
from lanac.training.data import Batch, Data, in_order  # noqa: E402

INHERITING = ("slim", "lowrank", "kernel", "relu", "shrink_se")
CPU = torch.device("cpu")


def inheriting_ops(view: SlotView, families: Iterable[str] = INHERITING) -> Iterator[OpSpec]:
    for family in families:
        yield from FAMILIES.get(family).enumerate(view)


def inherited(op: OpSpec, view: SlotView) -> nn.Module:
    """The op with the weights that it inherits, chosen on the samples but not fitted to them."""
    with mock.patch(f"lanac.ops.{op.family}.refit"):
        return build_op(op, view, 0)


@torch.no_grad()
def error(op: nn.Module, x: Tensor, wanted: Tensor) -> float:
    return float((op(x) - wanted).square().sum() / wanted.square().sum())


def errors(trained: Trained, images: int, families: Iterable[str]) -> None:
    train, test = (Data.of(trained.train, "train"), Data.of(trained.test, "test"))
    program = build_program(trained.model.eval(), train.batch([0, 1]).inputs)
    capture = SlotCapture(program, CPU)
    torch.manual_seed(0)
    names = [slot.name for slot in program.slots]
    inputs = collect_inputs(
        capture, (train.batch(part) for part in in_order(images, 128)), names, 1 << 28
    )
    unseen = {name: (x.clone(), y.clone()) for name, (x, y) in capture.run(
        test.batch(range(1000))).items()}  # fmt: skip
    found: dict[OpSpec, list[tuple[float, float, float]]] = defaultdict(list)
    for slot in program.slots:
        view = SlotView.of(program, slot, inputs[slot.name])
        sample = (torch.zeros(slot.input_spec.with_batch(1).shape),)
        for op in inheriting_ops(view, families):
            fitted = build_op(op, view, 0)
            cost = count_flops(fitted, sample) / max(1, count_flops(view.teacher, sample))
            before = error(inherited(op, view), *unseen[slot.name])
            after = error(fitted, *unseen[slot.name])
            found[op].append((cost, before, after))
            print(f"{slot.name:10} {op!s:16} {cost:6.2f} {before:9.4f} {after:9.4f}", flush=True)
    print(f"\n{images} training images; means over slots\n")
    print("| op | slots | flops | inherited | fitted |\n| --- | --- | --- | --- | --- |")
    for op, rows in found.items():
        cost, before, after = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        print(f"| `{op}` | {len(rows)} | {cost:.2f} | {before:.4f} | {after:.4f} |")


def epoch_seconds(model: nn.Module, size: int, images: int, batch: int = 32) -> float:
    """CPU seconds of forward and backward over the images, from two batches."""
    model.train()
    x = torch.randn(batch, 3, size, size)
    model(x[:2]).mean().backward()
    start = time.process_time()
    for _ in range(2):
        model(x).mean().backward()
    seconds = time.process_time() - start
    model.eval()
    return seconds * images / (2 * batch)


def fit_seconds(program: Program, size: int, images: int, most_bytes: int) -> tuple[float, int]:
    """CPU seconds of capturing and fitting as distilling does it, and how many ops there are."""
    names = [slot.name for slot in program.slots]
    batches = (Batch((torch.randn(64, 3, size, size),)) for _ in range(images // 64))
    start = time.process_time()
    inputs = collect_inputs(SlotCapture(program, CPU), batches, names, most_bytes // len(names))
    print(f"captured in {time.process_time() - start:.1f} s", flush=True)
    seconds: dict[str, float] = defaultdict(float)
    count = 0
    for slot in program.slots:
        view = SlotView.of(program, slot, inputs.pop(slot.name))
        for op in inheriting_ops(view):
            before = time.process_time()
            build_op(op, view, 0)
            seconds[op.family] += time.process_time() - before
            count += 1
        print(f"{slot.name:12} {time.process_time() - start:7.1f} s", flush=True)
    print({family: round(value, 1) for family, value in seconds.items()})
    return time.process_time() - start, count


def times(name: str, size: int, images: int, most_bytes: int) -> None:
    import timm

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = timm.create_model(name, pretrained=False).eval()
    program = build_program(model, (torch.randn(2, 3, size, size),))
    epoch = epoch_seconds(model, size, images)
    fitted, count = fit_seconds(program, size, images, most_bytes)
    print(
        f"{name} at {size} pixels, {len(program.slots)} slots, {count} ops, {images} images: fitting "
        f"{fitted:.0f} s, one epoch {epoch:.0f} s, ratio {fitted / epoch:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", metavar="NETWORK", help="timm's name: measure times instead")
    parser.add_argument("--size", type=int, default=224, help="pixels, with --time")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--network", default="example", help="example, or a name of timm")
    parser.add_argument("--families", default=",".join(INHERITING))
    parser.add_argument("--workdir", type=Path, default=Path("pools"), help="that of pools.py")
    parser.add_argument("--bytes", type=int, default=1 << 27, help="kept of all slots, with --time")
    arguments = parser.parse_args()
    if arguments.time:
        times(arguments.time, arguments.size, arguments.images, arguments.bytes)
    else:
        name, workdir = arguments.network, arguments.workdir
        trained = example(60000) if name == "example" else of_timm(name, 60000, 3, workdir)
        errors(trained, arguments.images, arguments.families.split(","))


if __name__ == "__main__":
    main()
