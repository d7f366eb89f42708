"""Fits the constants of predicted latencies and writes them into the package.

    python benchmarks/fit_latency.py fit.csv --kernels kernels.jsonl

Reads public measurements of whole networks (docs/benchmarks.md names their sources) and writes
lanac/targets/predicted/fitted.json. The kernels of about 1,500 networks are recorded first, which takes
ten minutes on one core; they are kept in the file of `--kernels`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from latency_data import ROOT, KernelStore, Row, read_rows
from latency_fit import (
    DEVICES,
    LEFT_OUT,
    REPARAMETERISED,
    START,
    Library,
    Samples,
    accuracy,
    by_regime,
    class_errors,
    family_ratios,
    fit_constants,
    fit_members,
    folds,
    spread_of,
)

OUT = ROOT / "lanac" / "targets" / "predicted" / "fitted.json"


def is_eager(row: Row) -> bool:
    """Large batches under autocast on two GPUs: the richest data there is."""
    return (
        row.device in ("rtx3090", "rtx4090")
        and row.runtime == "pytorch-eager"
        and row.layout == "nchw"
        and (row.framework.startswith(("pytorch 2.4", "pytorch 2.9")))
    )


def is_inductor(row: Row) -> bool:
    return row.device == "rtx4090" and row.runtime == "pytorch-inductor"


def is_tensorrt(row: Row) -> bool:
    """Small batches; T4's fp16 columns are left out: some barely beat fp32 (see SOURCES)."""
    return row.runtime == "tensorrt" and row.precision == "fp32"


def is_cpu(row: Row) -> bool:
    return row.device.startswith("cpu-") and row.runtime == "pytorch-inductor"


def is_other_eager(row: Row) -> bool:
    """Other GPUs and batches, of older frameworks: what eager constants do elsewhere."""
    return (
        row.runtime == "pytorch-eager"
        and row.device not in ("rtx3090", "rtx4090")
        and "?" not in row.precision
    )


@dataclass(frozen=True)
class Way:
    """How one way of running is fitted.

    Attributes:
        name: of the way, such as `gpu-eager`.
        rule: of fusion.
        rows: which rows.
        start: the way whose constants it starts from; None for physical guesses.
        freedom: how far it may go from there.
        fixed: constants that stay.
        title: what it was fitted on, in words.
    """

    name: str
    rule: str
    rows: Callable[[Row], bool]
    start: str | None
    freedom: float
    title: str
    fixed: tuple[str, ...] = ()


OCCUPANCY = ("half_tiles", "launch_us")
"""At large batches no core is idle and no launch is waited for: they do not say what these are."""

LAUNCHES = ("launch_us", "start_us")
"""What small batches say about TensorRT; the rest is as it is without."""

LEAST = 0.1
"""The smallest error of a class: single kernels are predicted worse than whole networks."""

HOST_US = 30.0
"""What PyTorch takes to start one kernel without compilation: 10 to 13 ms for the 170 to 280 kernels of a
resnet50 at batch 1 on V100, with loading of data."""

WAYS = (
    Way("gpu-eager", "eager", is_eager, None, 0.5, "PyTorch 2.4 and 2.9 on RTX 3090 and 4090",
        OCCUPANCY),
    Way("gpu-inductor", "inductor", is_inductor, "gpu-eager", 0.5, "PyTorch 2.4 and 2.9 on RTX 4090",
        OCCUPANCY),
    Way(
        "gpu-tensorrt", "tensorrt", is_tensorrt, "gpu-eager", 0.5,
        "PyTorch on RTX 3090 and 4090, and launches of TensorRT 8 on V100 and T4 at small batches",
        fixed=tuple(name for name in START if name not in LAUNCHES),
    ),
    Way("cpu-inductor", "inductor", is_cpu, None, 0.7, "PyTorch 2.4 on two Intel CPUs, all cores"),
)  # fmt: skip


def kept(rows: Sequence[Row], way: Way) -> list[Row]:
    """The rows of a way, without those that are known not to be what they say."""
    return [
        row
        for row in rows
        if way.rows(row)
        and row.family not in LEFT_OUT
        and not (row.model.split(":")[1].startswith(REPARAMETERISED) and "2.9" in row.framework)
    ]


def fit_way(
    library: Library, rows: Sequence[Row], way: Way, start: dict[str, float], rounds: int
) -> dict[str, Any]:
    """Constants and errors of one way, as the package keeps them."""
    rule = "tensorrt_volta" if way.rule == "tensorrt" else way.rule
    samples = library.samples(rows, rule)
    constants = fit_constants(samples, start, way.freedom, way.fixed, rounds)
    residuals = np.zeros(len(samples.rows))
    for train, held_out in folds(samples.rows):
        part = library.samples([samples.rows[i] for i in train], rule)
        trained = fit_constants(part, start, way.freedom, way.fixed, (rounds + 1) // 2)
        test = library.samples([samples.rows[i] for i in held_out], rule)
        residuals[held_out] = test.predicted(trained) - test.measured
    found = accuracy(samples.rows, residuals)
    print(
        f"{way.name}: {found.count} networks, held-out families: MAPE {100 * found.mape:.1f} %, "
        f"bias {100 * found.bias:+.1f} %, tau {found.tau:.3f}, ratios {100 * found.ratio:.1f} %",
        flush=True,
    )
    # Of TensorRT `_trust_tensorrt` takes eager's.
    members = (
        {}
        if way.rule == "tensorrt"
        else fit_members(
            library, samples.rows, rule, start, way.freedom, way.fixed, (rounds + 1) // 2
        )
    )
    held_out = {}
    for setup in sorted({setup_of(row) for row in samples.rows}):
        places = [i for i, row in enumerate(samples.rows) if setup_of(row) == setup]
        part = accuracy([samples.rows[i] for i in places], residuals[places])
        held_out[setup] = _rounded(asdict(part))
        print(f"  {setup}: {part}", flush=True)
    centred = _centred(samples, residuals)
    return {
        "fitted_on": way.title,
        "rows": len(samples.rows),
        "devices": sorted({DEVICES.get(row.device, row.device) for row in samples.rows}),
        "precisions": ["fp32"] if "cpu" in way.name else ["fp16", "amp"],
        "runtime_seen": True,
        "held_out": held_out,
        "constants": _rounded(constants),
        "members": members,
        "errors": _errors(samples.rows, residuals),
        "class_errors": _rounded(
            {
                **class_errors(samples.class_shares(constants), centred, LEAST),
                "host": 0.1,
                "own": 0.1,
            }
        ),
    }


def setup_of(row: Row) -> str:
    """What measured a row; the sources of small batches together."""
    framework = f"b{row.batch}" if row.runtime == "tensorrt" else row.framework
    return " ".join((row.device, row.runtime, framework, row.precision, row.layout))


def _centred(samples: Samples, residuals: Any) -> Any:
    """Residuals without what a whole setup has in common."""
    setups = np.array([hash(row.setup) for row in samples.rows])
    found = residuals.copy()
    for setup in set(setups):
        found[setups == setup] -= np.median(found[setups == setup])
    return found


def _errors(rows: Sequence[Row], residuals: Any) -> dict[str, Any]:
    """Spreads by regime; a regime without rows gets those of the nearest one, wider."""
    everything = {
        "spread": spread_of(residuals),
        "ratio": spread_of(family_ratios(rows, residuals)),
    }
    errors: dict[str, Any] = {}
    for name, part in by_regime(rows, residuals).items():
        if len(part) >= 20:
            chosen = [row for row, size in zip(rows, _regimes(rows), strict=True) if size == name]
            errors[name] = {
                "spread": spread_of(part),
                "ratio": spread_of(family_ratios(chosen, part)),
            }
    for name in ("small", "medium", "large"):
        errors.setdefault(name, {key: 1.5 * value for key, value in everything.items()})
    return {name: _rounded(value) for name, value in errors.items()}


def _regimes(rows: Sequence[Row]) -> list[str]:
    from lanac.targets.predicted.ways import regime

    return [regime(row.batch) for row in rows]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def elsewhere(
    library: Library, rows: Sequence[Row], constants: dict[str, float]
) -> dict[str, float]:
    """Mean residual on each device that the eager constants were not fitted on."""
    samples = library.samples([row for row in rows if is_other_eager(row)], "eager")
    residuals = samples.predicted(constants) - samples.measured
    names = np.array([f"{row.device} {row.precision}" for row in samples.rows])
    for name in sorted(set(names)):
        found = accuracy(
            [row for row, other in zip(samples.rows, names, strict=True) if other == name],
            residuals[names == name],
        )
        print(
            f"  elsewhere, {name}: {found.count}, bias {100 * found.bias:+.0f} %, "
            f"MAPE {100 * found.mape:.0f} %, tau {found.tau:.2f}, ratios {100 * found.ratio:.0f} %"
        )
    return {name: float(np.mean(residuals[names == name])) for name in sorted(set(names))}


def _trust_tensorrt(ways: dict[str, Any]) -> None:
    """Large batches in TensorRT: eager's errors and that of a runtime without measurements.

    Nothing but small batches is measured; the constants that count at large ones are eager's.
    """
    eager, engine = ways["gpu-eager"], ways["gpu-tensorrt"]
    engine["class_errors"] = eager["class_errors"]
    engine["members"] = {
        name: [engine["constants"][name]] * len(values) if name in LAUNCHES else values
        for name, values in eager["members"].items()
    }
    for size in ("medium", "large"):
        spread = float(np.hypot(eager["errors"]["large"]["spread"], 0.1))
        ratio = float(np.hypot(eager["errors"]["large"]["ratio"], 0.03))
        engine["errors"][size] = _rounded({"spread": spread, "ratio": ratio})


def text_of(record: dict[str, Any]) -> str:
    """As it is written: an entry a line, lists of numbers on one."""
    text = json.dumps(record, indent=1) + "\n"
    return re.sub(r"\[[\d\s.,e-]+\]", lambda found: " ".join(found[0].split()), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fit", type=Path, help="fit.csv")
    parser.add_argument("--kernels", type=Path, help="JSON lines; extended, and read next time")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--only", action="append", metavar="WAY", help="fit this one, keep the others as they are"
    )
    parser.add_argument("--no-record", action="store_true", help="use the kernels that are there")
    arguments = parser.parse_args()
    rows = read_rows(arguments.fit)
    store = KernelStore(arguments.kernels)
    if not arguments.no_record:
        store.record((row.model, row.img) for row in rows)
    library = Library(store)
    ways: dict[str, Any] = {}
    if arguments.only:
        ways = json.loads(arguments.out.read_text(encoding="utf-8"))["ways"]
    for way in WAYS:
        if arguments.only and way.name not in arguments.only:
            continue
        start = dict(ways[way.start]["constants"]) if way.start else dict(START)
        start["launch_us"] = HOST_US if way.name == "gpu-eager" else START["launch_us"]
        ways[way.name] = fit_way(library, kept(rows, way), way, start, arguments.rounds)
    biases = elsewhere(library, rows, ways["gpu-eager"]["constants"])
    half = [bias for name, bias in biases.items() if "fp16" in name]
    generation = float(np.sqrt(np.mean(np.square(half)))) if half else 0.4
    _trust_tensorrt(ways)
    for name in ("cpu-eager", "cpu-onnxruntime", "cpu-openvino"):
        ways[name] = {**ways["cpu-inductor"], "runtime_seen": False}
    for way in ways.values():
        way["errors"]["device"] = 0.15
    digest = hashlib.sha256(arguments.fit.read_bytes()).hexdigest()
    record = {
        "format": 1,
        "made_by": "benchmarks/fit_latency.py",
        "data": {"name": arguments.fit.name, "sha256": digest},
        "networks": store.count(),
        "unseen": {"runtime": 0.25, "precision": 0.3, "threads": 0.25}
        | _rounded({"generation": generation}),
        "ways": ways,
    }
    arguments.out.write_text(text_of(record), encoding="utf-8")


if __name__ == "__main__":
    main()
