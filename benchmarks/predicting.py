"""How good are predicted latencies, and what does guarding against the winner's curse buy?

    python benchmarks/predicting.py accuracy fit.csv --kernels kernels.jsonl
    python benchmarks/predicting.py table
    python benchmarks/predicting.py guard fit.csv --kernels kernels.jsonl

`accuracy` predicts families that the constants were not fitted on, devices that they were not fitted
on, and the rows of the LANA paper (tables 2 and 3), which no fit has seen. `table` times the cost table
of a large network. `guard` selects under predicted costs and looks at what the plans cost in truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from fit_latency import WAYS, is_other_eager, kept, setup_of
from latency_data import KernelStore, Row, read_rows
from latency_fit import START, Accuracy, Library, Samples, accuracy, fit_constants

from lanac.targets.predicted.ways import fitted

PAPER = (
    ("timm:efficientnet_b1", 240, 29.3, 59.0),
    ("timm:efficientnet_b2", 260, 38.2, 77.1),
    ("timm:efficientnet_b3", 300, 67.2, 125.9),
    ("timm:efficientnet_b4", 380, 132.0, 262.4),
    ("timm:efficientnet_b5", 456, 265.7, 525.6),
    ("timm:efficientnet_b6", 528, 466.7, 895.2),
    ("timm:tf_efficientnetv2_b1", 240, 17.9, 44.7),
    ("timm:tf_efficientnetv2_b2", 260, 24.3, 58.9),
    ("timm:tf_efficientnetv2_b3", 300, 41.2, 91.6),
    ("timm:resnest50d_1s4x24d", 224, 32.3, 74.0),
)
"""Table 3 of the LANA paper: network, pixels, milliseconds in TensorRT and PyTorch, V100, batch 128."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, command in (("accuracy", show_accuracy), ("guard", show_guard)):
        part = commands.add_parser(name)
        part.add_argument("fit", type=Path)
        part.add_argument("--kernels", type=Path, required=True)
        part.add_argument("--rounds", type=int, default=12)
        part.set_defaults(run=command)
    table = commands.add_parser("table")
    table.add_argument("--network", default="efficientnet_b6")
    table.add_argument("--target", default="v100:tensorrt:fp16:b128")
    table.set_defaults(run=show_table)
    arguments = parser.parse_args()
    arguments.run(arguments)


# Accuracy


def show_accuracy(arguments: argparse.Namespace) -> None:
    """What the fit saw of families that it held out, then what it never sees."""
    rows = read_rows(arguments.fit)
    store = KernelStore(arguments.kernels)
    store.record((name, img) for name, img, *_ in PAPER)
    library = Library(store)
    ways = fitted()["ways"]
    print("| set | networks | MAPE | bias | Kendall's tau | ratios within a family |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for way in WAYS:
        for setup, found in ways[way.name]["held_out"].items():
            _line(f"{setup}: families held out", Accuracy(**found))
    eager = ways["gpu-eager"]["constants"]
    chosen = kept(rows, WAYS[0])
    _devices_left_out(library, chosen, arguments.rounds)
    _by_setup(library, [row for row in rows if is_other_eager(row)], eager, "device not in the fit")
    nhwc = [
        row
        for row in rows
        if row.layout == "nhwc" and row.device.startswith("rtx") and "2.4" in row.framework
    ]
    _by_setup(library, nhwc, eager, "channels last, not in the fit")
    _line(
        "3090 and 4090 eager by multiplications alone",
        _flops_alone(library.samples(chosen, "eager")),
    )
    for column, rule, name in ((2, "tensorrt_volta", "gpu-tensorrt"), (3, "eager", "gpu-eager")):
        found, error = paper_residuals(library, ways[name]["constants"], column, rule)
        title = "TensorRT" if column == 2 else "PyTorch"
        _line(f"the paper's V100, {title}, fp16 b128", accuracy(found, error))
        each = zip(found, error, strict=True)
        print("  " + ", ".join(f"{row.model[5:]} {100 * e:+.0f} %" for row, e in each))


def _by_setup(
    library: Library, rows: Sequence[Row], constants: dict[str, float], what: str
) -> None:
    samples = library.samples(rows, "eager")
    residuals = samples.predicted(constants) - samples.measured
    for setup in sorted({setup_of(row) for row in samples.rows}):
        places = [i for i, row in enumerate(samples.rows) if setup_of(row) == setup]
        found = accuracy([samples.rows[i] for i in places], residuals[places])
        _line(f"{setup}: {what}", found)


def paper_residuals(
    library: Library, constants: dict[str, float], column: int, rule: str
) -> tuple[list[Row], Any]:
    """The paper's rows, and logarithms of predicted over printed latencies."""
    runtime = "tensorrt" if column == 2 else "pytorch-eager"
    rows = [
        Row("v100", runtime, "paper", "fp16", "nchw", "paper", entry[0],
            "efficientnetv2" if "v2" in entry[0] else entry[0][5:14], 128, entry[1], entry[column])
        for entry in PAPER
    ]  # fmt: skip
    samples = library.samples(rows, rule)
    return samples.rows, samples.predicted(constants) - samples.measured


def _devices_left_out(library: Library, rows: Sequence[Row], rounds: int) -> None:
    """Each GPU predicted with what was fitted on the other, with its own figures."""
    way = WAYS[0]
    chosen = [row for row in rows if "2.4" in row.framework]
    for left, other in (("rtx4090", "rtx3090"), ("rtx3090", "rtx4090")):
        train = library.samples([row for row in chosen if row.device == other], way.rule)
        constants = fit_constants(train, START, way.freedom, way.fixed, rounds)
        test = library.samples([row for row in chosen if row.device == left], way.rule)
        found = accuracy(test.rows, test.predicted(constants) - test.measured)
        _line(f"{left} eager 2.4, fitted on the {other} alone", found)


def _flops_alone(samples: Samples) -> Accuracy:
    """Milliseconds proportional to multiplications: one factor per setup."""
    residuals = np.log(samples.macs()) - samples.measured
    setups = np.array([setup_of(row) for row in samples.rows])
    for setup in set(setups):
        residuals[setups == setup] -= np.median(residuals[setups == setup])
    return accuracy(samples.rows, residuals)


def _line(what: str, found: Accuracy) -> None:
    print(
        f"| {what} | {found.count:g} | {100 * found.mape:.1f} % | {100 * found.bias:+.1f} % | "
        f"{found.tau:.3f} | {100 * found.ratio:.1f} % |",
        flush=True,
    )


# The time that a table takes


def show_table(arguments: argparse.Namespace) -> None:
    from predicted_programs import traced

    from lanac.passes.op_outlines import OpOutlines
    from lanac.targets import parse_target
    from lanac.targets.predicted import predict_table

    start = time.process_time()
    program, ops = traced(arguments.network, "paper")
    print(f"traced and enumerated in {time.process_time() - start:.1f} s of CPU time")
    count = sum(map(len, ops.values()))
    start, wall = time.process_time(), time.perf_counter()
    outlines = OpOutlines(program)
    table = predict_table(
        program, ops, outlines.get, parse_target(arguments.target), key_of=outlines.key
    )
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    failed = sum(map(len, table.failed.values()))
    print(
        f"{arguments.network}: {len(program.slots)} slots, {count} costs ({failed} failed) in "
        f"{seconds:.1f} s of CPU time, {wall:.1f} s in all"
    )
    print(table.teacher)
    own = sum(next(iter(parts.values())).latency_ms for parts in table.costs.values())
    print(f"constant {table.constant.latency_ms:.3g} ms, the teacher's own ops {own:.3g} ms")


# The guard


def show_guard(arguments: argparse.Namespace) -> None:
    from predicted_guard import compare

    for line in compare(arguments.fit, arguments.kernels, arguments.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
