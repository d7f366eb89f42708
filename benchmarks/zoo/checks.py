"""What is checked of one network: traced, cut, rewritten, trained, emitted, exported.

Each check is a stage of its own; one that fails leaves the others alone where it can.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from benchmarks.zoo.networks import DENSE, TIMM, Built, Network, build
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.pytorch import BACKEND as PYTORCH
from lanac.errors import LanacError
from lanac.frontend.partition import partition
from lanac.frontend.tracer import ShapeTracer
from lanac.frontend.tracing import Trace, trace
from lanac.ir import Program, flatten_tensors, node_parameters, verify_program
from lanac.targets import parse_target

CPU = parse_target("cpu")

FRESH = Path(__file__).with_name("fresh.py")
FRESH_SECONDS = 300
BATCH, OTHER_BATCH = 2, 3

NEWER, OLDER, AUTO, NONE = EXPORTERS = ("newer", "older", "auto", "none")

Row = dict[str, Any]
Report = Callable[[Row], None]


def check_network(network: Network, report: Report, exporter: str = NEWER) -> Row:
    """Runs all stages.

    Args:
        network: what to check.
        report: told after every stage, so that a process that is stopped has said how far it came.
        exporter: of the ONNX stage: the one that lanac emits with, the older and faster one, the older
            one for timm's families only (the newer where it fails), or none.

    Returns:
        The row of the table: facts, and for each stage its seconds, findings and error.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    stages = _Stages(network, report)
    built = stages.run("build", lambda row: _build(network, row))
    if built is None:
        return stages.row
    x, more = torch.randn(BATCH, *built.image), torch.randn(OTHER_BATCH, *built.image)
    trained = torch.randn(OTHER_BATCH, *built.training_image) if built.training_image else more
    traced = stages.run("trace", lambda row: _trace(built.model, x, row))
    if traced is None:
        return stages.row
    program = stages.run("partition", lambda row: _partition(network, built.model, traced, row))
    if program is None:
        return stages.row
    split = program.split()
    stages.run("identity", lambda row: _identity(program, built.model, split, (x, more), row))
    wanted = stages.run("train", lambda row: _train(built.model, split, trained, row))
    with tempfile.TemporaryDirectory(prefix="coverage.") as folder:
        given = (built.model, split, x, more, trained, wanted)
        stages.run("source", lambda row: _source(*given, Path(folder), row))
        if exporter != NONE:
            files = Path(folder) / "onnx"
            files.mkdir()
            tries: tuple[str, ...] = (exporter,)
            if exporter == AUTO:
                tries = (OLDER, NEWER) if network.group == TIMM else (NEWER,)
            stages.run("onnx", lambda row: _onnx(built.model, split, (x, more), files, tries, row))
    return stages.row


class _Stages:
    def __init__(self, network: Network, report: Report) -> None:
        facts = {"name": network.name, "group": network.group, "module": network.module}
        self.row: Row = {**facts, "stages": {}}
        self._report = report

    def run(self, name: str, stage: Callable[[Row], Any]) -> Any:
        """The stage's result; None where it failed."""
        found: Row = {}
        self.row["stages"][name] = found
        self.row["running"] = name
        self._report(self.row)
        start = time.perf_counter()
        try:
            return stage(found)
        except Exception as error:
            known = isinstance(error, LanacError | _Wrong)
            found["error"] = str(error) if known else f"{type(error).__name__}: {_line(error)}"
        finally:
            found["seconds"] = time.perf_counter() - start
            self.row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            del self.row["running"]
            self._report(self.row)


class _Wrong(Exception):
    """A check that did not come out as it should."""


def _build(network: Network, row: Row) -> Built:
    built = build(network)
    row["params"] = sum(value.numel() for value in built.model.parameters())
    row["image"], row["rates"] = built.image, dict(built.rates)
    start = time.perf_counter()
    with torch.no_grad():
        built.model(torch.randn(BATCH, *built.image))
    row["forward_seconds"] = time.perf_counter() - start
    return built


def _trace(model: nn.Module, x: Tensor, row: Row) -> Trace:
    traced = trace(model, (x,))
    row["notes"] = list(traced.notes)
    nodes = list(traced.module.graph.nodes)
    tracer = ShapeTracer((x,))
    calls = {str(node.target) for node in nodes if node.op == "call_module"}
    opaque = {
        type(part).__name__
        for path in calls
        for part in [traced.module.get_submodule(path)]
        # What clean-up has added belongs to no file of the model's; it is a leaf by design.
        if not tracer.is_leaf_module(part, path) and not type(part).__module__.startswith("lanac.")
    }
    row["how"] = traced.how
    row["opaque"] = sorted(opaque)
    return traced


def _partition(network: Network, model: nn.Module, traced: Trace, row: Row) -> Program:
    program = partition(traced)
    row["slots"] = [slot.name for slot in program.slots]
    inside = {
        id(value)
        for slot in program.slots
        for name in slot.nodes
        for value in node_parameters(program.teacher, program.nodes[name])
    }
    row["share"] = _share(model.parameters(), inside)
    if network.group == DENSE:
        convolutions = (m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd))
        row["convolution_share"] = _share((m.weight for m in convolutions), inside)
    return program


def _share(values: Iterable[Tensor], inside: set[int]) -> float:
    sizes = [(value.numel(), id(value) in inside) for value in values]
    total = sum(size for size, _ in sizes)
    return sum(size for size, is_inside in sizes if is_inside) / total if total else 0.0


@torch.no_grad()
def _identity(
    program: Program, model: nn.Module, split: fx.GraphModule, batches: Iterable[Tensor], row: Row
) -> None:
    verify_program(program)
    for batch in batches:
        expected = flatten_tensors(model(batch.clone()))
        if not all(value.isfinite().all() for value in expected):
            raise _Wrong("the network's own outputs are not finite: nothing can be compared")
        row["spread"] = min(float(value.std()) for value in expected)
        actual = flatten_tensors(split(batch.clone()))
        if not _equal(expected, actual):
            raise _Wrong(f"differs by {_error(expected, actual):.2g} with a batch of {len(batch)}")


def _train(model: nn.Module, split: fx.GraphModule, x: Tensor, row: Row) -> Row:
    """Compares the split program with the model in training; returns what the model does there."""
    state = {name: value.clone() for name, value in model.named_buffers()}
    for part in (model, split):
        part.train()
    try:
        wanted = _training_run(model, x, state)
        found = _training_run(split, x, state, buffers_of=model)
        model.train()
        row["batch_norms"], row["is_random"] = len(wanted["moved"]), wanted["is_random"]
        if found["moved"] != wanted["moved"]:
            raise _Wrong(
                f"{len(found['moved'])} batch norms move, in the model {len(wanted['moved'])}"
            )
        if found["is_random"] != wanted["is_random"]:
            raise _Wrong("two forwards are " + ("equal" if wanted["is_random"] else "different"))
        row["equal"] = _equal(wanted["outputs"], found["outputs"])
        if not wanted["is_random"] and not _equal(wanted["statistics"], found["statistics"]):
            raise _Wrong("running statistics differ from the model's")
        if not wanted["is_random"] and not row["equal"]:
            raise _Wrong("what it computes in training differs from what the model computes")
        return wanted
    finally:
        for part in (model, split):
            part.eval()
        _restore(model, state)


def _training_run(
    module: nn.Module, x: Tensor, state: dict[str, Tensor], buffers_of: nn.Module | None = None
) -> Row:
    """Two forwards with random numbers from different seeds, and gradients of the first."""
    owner = buffers_of or module
    _restore(owner, state)
    torch.manual_seed(0)
    raw = module(x.clone())
    outputs = flatten_tensors(raw)
    statistics = {name: value.clone() for name, value in owner.named_buffers()}
    gradients: list[str] = []
    norm = 0.0
    if buffers_of is None:
        sum(value.float().square().mean() for value in outputs).backward()
        reached = [value for value in module.parameters() if value.grad is not None]
        gradients = sorted(str(tuple(value.shape)) for value in reached)
        norm = sum(value.grad.double().square().sum().item() for value in reached) ** 0.5
        module.zero_grad(set_to_none=True)
    _restore(owner, state)
    torch.manual_seed(1)
    with torch.no_grad():
        again = flatten_tensors(module(x.clone()))
    _restore(owner, state)
    moved = [
        name
        for name, value in statistics.items()
        if name.endswith("running_mean") and not torch.equal(value, state[name])
    ]
    return {
        "outputs": [value.detach() for value in outputs],
        "statistics": list(statistics.values()),
        "moved": sorted(moved),
        "is_random": not _equal(outputs, again),
        "gradients": gradients,
        "gradient_norm": norm,
    }


@torch.no_grad()
def _restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in model.named_buffers():
        value.copy_(state[name])


def _source(
    model: nn.Module,
    split: fx.GraphModule,
    x: Tensor,
    more: Tensor,
    trained: Tensor,
    wanted: Row | None,
    folder: Path,
    row: Row,
) -> None:
    start = time.perf_counter()
    source, weights = PYTORCH.emit(split, folder, (x,), CPU)
    row["emit_seconds"] = time.perf_counter() - start
    text = source.read_text(encoding="utf-8")
    row["lines"], row["classes"] = text.count("\n"), len(re.findall(r"^class ", text, re.M))
    row["mib"] = weights.stat().st_size >> 20
    with torch.no_grad():
        data = {"x": x, "more": more, "trained": trained}
        for prefix, batch in (("eval", x), ("more", more)):
            outputs = flatten_tensors(model(batch.clone()))
            data |= {f"{prefix}.{place}": value for place, value in enumerate(outputs)}
    if wanted is not None:
        data |= {f"train.{place}": value for place, value in enumerate(wanted["outputs"])}
    copies = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in data.items()
    }
    save_file(copies, folder / "data.safetensors")
    del copies, data
    command = [sys.executable, "-IB", str(FRESH), str(folder), *(["train"] if wanted else [])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=FRESH_SECONDS
    )
    if done.returncode:
        raise _Wrong(f"in a clean process: {(done.stderr.strip().splitlines() or ['ended'])[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    row.update({name: value for name, value in found.items() if name != "gradients"})
    if wanted is not None:
        row["trains"] = _trains(found, wanted)
    if found["foreign"]:
        raise _Wrong(f"imports {', '.join(found['foreign'])}")


def _trains(found: Row, wanted: Row) -> str:
    """'yes', or what is different when the emitted network is trained."""
    if found["moved"] != len(wanted["moved"]):
        return f"{found['moved']} batch norms move instead of {len(wanted['moved'])}"
    if found["gradients"] != wanted["gradients"]:
        return f"{len(found['gradients'])} gradients instead of {len(wanted['gradients'])}"
    return "yes"


@torch.no_grad()
def _onnx(
    model: nn.Module,
    split: fx.GraphModule,
    batches: tuple[Tensor, ...],
    folder: Path,
    exporters: Sequence[str],
    row: Row,
) -> None:
    """`exporters`: to be tried in order."""
    start = time.perf_counter()
    for exporter in exporters:
        row["exporter"] = exporter
        export = _export_older if exporter == OLDER else ONNX.emit
        try:
            files = export(split, folder, batches[:1])
            break
        except Exception:
            if exporter == exporters[-1]:
                raise
    row["export_seconds"] = time.perf_counter() - start
    row["mib"] = sum(path.stat().st_size for path in files) >> 20
    run = ONNX.load(files, CPU)
    errors = []
    for batch in batches:
        expected, actual = flatten_tensors(model(batch.clone())), run(batch)
        scale = max(float(value.abs().max()) for value in expected)
        errors.append(_error(expected, list(actual)) / scale)
    row["difference"] = max(errors)


def _export_older(
    split: fx.GraphModule, folder: Path, inputs: tuple[Tensor, ...]
) -> tuple[Path, ...]:
    path = folder / "older.onnx"
    # A graph module's `graph` is taken for TorchScript's there.
    torch.onnx.export(
        nn.Sequential(split).eval(), inputs, path, dynamo=False, opset_version=18,
        input_names=["x"], dynamic_axes={"x": {0: "batch"}},
    )  # fmt: skip
    return (path,)


def _equal(expected: list[Tensor], actual: list[Tensor]) -> bool:
    return len(expected) == len(actual) and all(map(torch.equal, expected, actual))


def _error(expected: list[Tensor], actual: list[Tensor]) -> float:
    if [value.shape for value in expected] != [value.shape for value in actual]:
        return float("inf")
    pairs = zip(expected, actual, strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
