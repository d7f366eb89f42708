"""The rows of a coverage run as a document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.zoo.networks import DENSE, LONG_SKIPS, TEACHER, TEACHERS, TIMM, TORCHVISION, Network

Row = dict[str, Any]
Rows = Sequence[tuple[Network, Row | None]]

ONNX_AGREES = 1e-3
"""Largest relative difference of float32 outputs that reordered sums explain."""

LARGEST = "efficientnet_b6"
"""The teacher of which the time to trace it is a goal."""

TITLES = {
    TEACHER: "The paper's teachers and their relatives",
    TIMM: "One small variant of every architecture module of timm",
    TORCHVISION: "torchvision's classifiers",
    DENSE: "Segmentation and necks of detectors",
}
COLUMNS = (
    "model", "params (M)", "traced by", "slots", "weights in slots", "rewrite equal",
    "switch to train", "source: error", "classes / lines", "other batch", "trains",
    "ONNX: error", "s: trace, cut", "s: emit, reload", "s: ONNX", "peak MiB",
)  # fmt: skip
STAGES = {
    "build": "build",
    "trace": "trace",
    "partition": "partition",
    "identity": "identity rewrite",
    "train": "switch to train",
    "source": "PyTorch source",
    "onnx": "ONNX",
}

_HEAD = """# Coverage

What the front end and the emitters do with the networks that people have. Written by
`python benchmarks/coverage.py`, with {versions}, {jobs} processes at a time on one thread each.

Batch norms have statistics near those of the activations, not 0 and 1, and weights that begin as
constants (layer scales of 1e-6, branches that begin with a zero) are drawn at random, since they would
hide errors. Dropout and drop path have a rate of 0.1 where the network has them.

- **traced by**: torch.fx, with the classes of modules that were kept as a whole, or torch.export.
- **rewrite equal**: the network with its own ops as slots computes bit for bit what the model computes,
  for batches of 2 and 3.
- **switch to train**: after `train()` the same batch norms move as in the model, two forwards differ
  exactly if the model's do, and what is computed with the same random numbers is the same, bit for bit
  ("moves": the random numbers are drawn in another order, or the note says what is different).
- **source**: emitted, and loaded by a process that imports torch and safetensors alone; the largest
  difference to the model, 0 being bit for bit; "other batch" the same for another batch size.
- **trains**: the emitted network's batch norms move, and gradients reach as many parameters, of the same
  shapes, as in the model.
- **ONNX**: relative difference of ONNX Runtime's outputs, batches of 2 and 3, from one file. "older": by
  torch's older exporter, with which lanac times ops; the one that lanac emits with takes ten times as long.
"""


def write_table(rows: Rows, versions: Mapping[str, str], jobs: int) -> str:
    """The document."""
    names = ", ".join(f"{name} {number}" for name, number in versions.items())
    parts = [_HEAD.format(versions=names, jobs=jobs), _summary(rows), _failures(rows)]
    parts += [_teachers(rows)]
    for group, title in TITLES.items():
        members = [(network, row) for network, row in rows if network.group == group]
        parts.append(_group(title, members))
    parts.append(_notes(rows))
    return "\n".join(part for part in parts if part)


def _stage(row: Row, name: str) -> Row:
    found: Row = row["stages"].get(name, {"error": "not reached"})
    return found


def _is_traced(row: Row) -> bool:
    return all("error" not in _stage(row, name) for name in ("build", "trace"))


def _is_equal(row: Row) -> bool:
    return _is_traced(row) and all(
        "error" not in _stage(row, name) for name in ("partition", "identity")
    )


def _switches(row: Row) -> bool:
    return "error" not in _stage(row, "train")


def _source_is_equal(row: Row) -> bool:
    stage = _stage(row, "source")
    return "error" not in stage and stage["difference"] == stage["difference_other_batch"] == 0


def _trains(row: Row) -> bool:
    return _stage(row, "source").get("trains") == "yes"


def _agrees(row: Row) -> bool:
    return _stage(row, "onnx").get("difference", 1.0) <= ONNX_AGREES


def _summary(rows: Rows) -> str:
    there = [(network, row) for network, row in rows if row is not None]
    lines = ["## Summary", ""]
    lines += ["| | timm's families | all networks | goal |", "| --- | --- | --- | --- |"]
    families = [row for network, row in there if network.group == TIMM]
    everything = [row for _, row in there]
    for what, holds, goal in (
        ("traced", _is_traced, ""),
        ("traced, cut, and back equal", _is_equal, "95 %"),
        ("switch to train", _switches, ""),
        ("source reloads with error 0, any batch", _source_is_equal, ""),
        ("emitted source trains", _trains, ""),
        ("ONNX agrees", _agrees, ""),
    ):
        tried = [
            [row for row in part if holds is not _agrees or "onnx" in row["stages"]]
            for part in (families, everything)
        ]
        cells = [_count(list(map(holds, part))) for part in tried]
        lines.append(f"| {what} | {' | '.join(cells)} | {goal} |")
    missing = [network.name for network, row in rows if row is None]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    seconds = sum(row.get("wall_seconds", 0) for row in everything)
    by_stage = {
        title: sum(_stage(row, name).get("seconds", 0) for row in everything)
        for name, title in STAGES.items()
    }
    parts = ", ".join(f"{title} {value / 60:.0f}" for title, value in by_stage.items())
    lines += ["", f"{seconds / 60:.0f} process-minutes in all ({parts})."]
    return "\n".join(lines) + "\n"


def _count(holds: Sequence[bool]) -> str:
    share = 100 * sum(holds) / len(holds) if holds else 0
    return f"{sum(holds)} of {len(holds)} ({share:.1f} %)"


def _failures(rows: Rows) -> str:
    lines = []
    for network, row in rows:
        if row is None:
            continue
        for name, title in STAGES.items():
            if "error" in row["stages"].get(name, {}):
                lines.append(f"- **{network.name}**, {title}: {row['stages'][name]['error']}")
        source, onnx = row["stages"].get("source", {}), row["stages"].get("onnx", {})
        if "difference" in source and not _source_is_equal(row) and "error" not in source:
            errors = f"{source['error_']:.2g}, other batch {source['difference_other_batch']:.2g}"
            lines.append(f"- **{network.name}**, PyTorch source: differs by {errors}")
        if source.get("trains", "yes") != "yes":
            lines.append(f"- **{network.name}**, training the source: {source['trains']}")
        if "difference" in onnx and not _agrees(row):
            error = onnx["difference"]
            lines.append(f"- **{network.name}**, ONNX: relative difference {error:.2g}")
    return "\n".join(["## What fails", "", *(lines or ["Nothing."])]) + "\n"


def _teachers(rows: Rows) -> str:
    lines = ["## Slots of the paper's teachers, and long skips", ""]
    lines += ["| teacher | blocks | other slots | expected |", "| --- | --- | --- | --- |"]
    for network, row in rows:
        expected = TEACHERS.get(network.name)
        if network.group != TEACHER or expected is None or row is None:
            continue
        names = _stage(row, "partition").get("slots", [])
        blocks = sum(re.match(expected.pattern, name) is not None for name in names)
        others = len(names) - blocks
        is_so = (blocks, others) == (expected.blocks, expected.others)
        wanted = f"{expected.blocks} + {expected.others}{'' if is_so else ': **differs**'}"
        lines.append(f"| {network.name} | {blocks} | {others} | {wanted} |")
    lines += ["", *(_tracing_time(row) for n, row in rows if row and n.name == LARGEST)]
    lines += ["", "| network with long skips | convolution weights in slots | goal |"]
    lines += ["| --- | --- | --- |"]
    for network, row in rows:
        if network.name in LONG_SKIPS and row is not None:
            share = _stage(row, "partition").get("convolution_share")
            lines.append(f"| {network.name} | {_percent(share)} | 90 % |")
    return "\n".join(lines) + "\n"


def _tracing_time(row: Row) -> str:
    trace, cut = (_stage(row, name).get("seconds", 0) for name in ("trace", "partition"))
    forward = _stage(row, "build").get("forward_seconds", 0)
    return (
        f"{row['name']} is traced and cut in {trace + cut:.1f} s beside another process (goal: 5 s). "
        f"One forward of two images takes {forward:.1f} s; model and graph are run on two and three "
        "to be compared."
    )


def _group(title: str, members: Rows) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(COLUMNS)} |"]
    lines.append(f"| {' | '.join('---' for _ in COLUMNS)} |")
    lines += [f"| {' | '.join(_cells(n, row))} |" for n, row in members if row is not None]
    return "\n".join(lines) + "\n"


def _cells(network: Network, row: Row) -> list[str]:
    stages = row["stages"]
    trace, cut, train = (stages.get(name, {}) for name in ("trace", "partition", "train"))
    source, onnx = stages.get("source", {}), stages.get("onnx", {})
    how = trace.get("how", "no")
    if trace.get("opaque"):
        how += f"; whole: {', '.join(trace['opaque'])}"
    switch = "no" if "error" in train else "yes" if train.get("equal") else "moves"
    return [
        f"{network.name} ({network.module})" if network.module else network.name,
        f"{stages['build'].get('params', 0) / 1e6:.1f}",
        how,
        str(len(cut.get("slots", ()))),
        _percent(cut.get("share")),
        "yes" if _is_equal(row) else "no",
        switch if train else "-",
        _number(source, "difference"),
        f"{source['classes']} / {source['lines']}" if "classes" in source else "-",
        _number(source, "difference_other_batch"),
        "yes" if _trains(row) else "no",
        _number(onnx, "difference") + (" (older)" if onnx.get("exporter") == "older" else ""),
        f"{trace.get('seconds', 0):.1f}, {cut.get('seconds', 0):.1f}",
        f"{source.get('emit_seconds', 0):.1f}, {source.get('load_seconds', 0):.1f}",
        f"{onnx.get('seconds', 0):.1f}",
        str(row.get("peak_mib", "-")),
    ]


def _number(stage: Row, name: str) -> str:
    if name not in stage:
        return "no" if "error" in stage else "-"
    return "0" if stage[name] == 0 else f"{stage[name]:.1e}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


_INSTALLED = re.compile(r"\S*site-packages/")
"""Where packages lie on one machine is of no interest on another."""


def _notes(rows: Rows) -> str:
    lines = [
        f"- **{network.name}**: {_INSTALLED.sub('', note)}"
        for network, row in rows
        if row is not None
        for note in _stage(row, "trace").get("notes", ())
    ]
    return "\n".join(["## Notes of the tracer", "", *lines]) + "\n" if lines else ""
