"""TensorRT and TensorRT-RTX engines through polygraphy. The only file that imports it.

Engines are built by polygraphy's own command in a process of its own: which of the two libraries
polygraphy drives is decided when it is imported, and a builder that crashes takes nothing with it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lanac.backends.base import Run, Runner
from lanac.backends.onnx_files import Signature
from lanac.errors import BackendError, first_line

TENSORRT = "tensorrt"
RTX = "tensorrt_rtx"
TITLES = {TENSORRT: "TensorRT", RTX: "TensorRT-RTX"}
_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
POLYGRAPHY = "import sys; from polygraphy.tools import main; sys.exit(main())"
"""The command `polygraphy` of the Python that runs it."""

MIN_MAX_BATCH = 8
"""Engines take batches up to the target's, or this many where that is less."""

_MAGIC = b"vtrt"
_HEADER = struct.Struct("<4s12xQ")
"""What TensorRT-RTX puts first into an engine: its mark, and the length of the file."""


def max_batch(batch: int) -> int:
    """The largest batch of an engine for that target's batch."""
    return max(batch, MIN_MAX_BATCH)


def library_version(library: str) -> str | None:
    """The version of `tensorrt` or `tensorrt_rtx` that is installed here, None where none is."""
    if importlib.util.find_spec(library) is None:
        return None
    for package in (library.replace("_", "-"), f"{library}-cu13", f"{library}-cu12"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "0"


def convert_arguments(
    model: str,
    engine: str,
    signature: Signature,
    batch: int,
    *,
    timing_cache: str | None = None,
    capability: tuple[int, int] | None = None,
) -> list[str]:
    """Arguments of the command `polygraphy`: an engine with a dynamic batch, best at `batch`.

    The network is strongly typed: precisions are the file's. TensorRT-RTX knows nothing else.

    Args:
        model: name of the ONNX file.
        engine: name of the engine.
        signature: what the model takes.
        batch: the target's.
        timing_cache: where TensorRT keeps what it has timed; TensorRT-RTX times at run time.
        capability: what TensorRT-RTX builds for; None for TensorRT, which builds for what is here.
    """
    arguments = ["convert", model, "--convert-to", "trt", "-o", engine]
    shapes = [value for value in signature.inputs if None in value.shape]
    for bound, size in (("min", 1), ("opt", batch), ("max", max_batch(batch))):
        if shapes:
            arguments.append(f"--trt-{bound}-shapes")
            arguments += [f"{value.name}:{_shape(value.with_batch(size))}" for value in shapes]
    if capability is not None:
        return [*arguments, "--compute-capabilities", f"{capability[0]}.{capability[1]}"]
    arguments.append("--strongly-typed")
    if timing_cache is not None:
        arguments += ["--load-timing-cache", timing_cache, "--save-timing-cache", timing_cache]
    return arguments


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def build_engine(arguments: Sequence[str], folder: Path, library: str) -> None:
    """Runs polygraphy with these arguments.

    Args:
        arguments: of `convert_arguments`, with absolute paths.
        folder: where temporary files may lie.
        library: `tensorrt` or `tensorrt_rtx`.

    Raises:
        BackendError: no engine came of it; says what the builder said.
    """
    switch = {_SWITCH: "1" if library == RTX else "0"}
    with tempfile.TemporaryDirectory(prefix=".engine.", dir=folder) as scratch:
        done = subprocess.run(
            [sys.executable, "-c", POLYGRAPHY, *arguments],
            env={**os.environ, **switch},
            cwd=scratch,  # nothing in the user's folder can be taken for a module
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        raise BackendError(f"{TITLES[library]} builds no engine: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the builder crashed ({signal.Signals(-done.returncode).name})"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    errors = [line[4:] for line in lines if line.startswith(("[E] ", "[!] "))]
    said = (errors or lines or [f"exit status {done.returncode}"])[0]
    # "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot ..."
    said = re.sub(r"^.*?Error Code \d+: ", "", said)
    return re.sub(r"\(\[[\w.]+:\d+: \w+\] ", "(", said)


def check_engine(path: Path) -> None:
    """Checks what can be checked of a TensorRT-RTX engine where no GPU can load it: its header.

    Raises:
        BackendError: it is no engine, or cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:4] != _MAGIC:
        raise BackendError(
            f"{path.name} is no engine: expected the header of TensorRT-RTX, got {head[:8]!r}"
        )
    _, length = _HEADER.unpack(head)
    if length != size:
        raise BackendError(
            f"{path.name} is no whole engine: its header says {length:,} bytes, it has {size:,}"
        )


def _polygraphy(library: str) -> Any:
    """polygraphy's TensorRT backend in this process, driving that library.

    Raises:
        BackendError: it drives the other one already.
    """
    wanted = library == RTX
    os.environ[_SWITCH] = "1" if wanted else "0"
    import polygraphy.backend.trt
    import polygraphy.config

    if wanted != bool(polygraphy.config.USE_TENSORRT_RTX):
        raise BackendError(
            "TensorRT and TensorRT-RTX engines cannot be run in one process: run them one by one"
        )
    return polygraphy.backend.trt


def run_engine(path: Path, signature: Signature, library: str, most: int) -> Runner:
    """Loads an engine onto the GPU of this machine, for comparison.

    Args:
        path: the engine.
        signature: names of what it takes and gives, in order.
        library: what built it.
        most: the largest batch that it takes; more samples are run one part after the other.

    Raises:
        BackendError: it cannot be loaded.
    """
    runner = _activated(path, library)

    def run_part(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        pairs = zip(signature.inputs, inputs, strict=True)
        found = runner.infer({value.name: tensor.contiguous() for value, tensor in pairs})
        # Copies: the next inference overwrites the memory.
        return tuple(torch.as_tensor(found[value.name]).clone() for value in signature.outputs)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        count = len(inputs[0])
        parts = []
        for start in range(0, count, most):
            end = start + most
            batched = zip(signature.inputs, inputs, strict=True)
            some = [t[start:end] if None in value.shape else t for value, t in batched]
            parts.append(run_part(some))
        return tuple(
            torch.cat(tensors) if None in value.shape else tensors[0]
            for value, tensors in zip(signature.outputs, zip(*parts, strict=True), strict=True)
        )

    return run


def timed_engine(path: Path, inputs: Mapping[str, Tensor], library: str) -> Run:
    """One inference of an engine: inputs are on the GPU already, outputs stay there.

    polygraphy ends each inference by waiting for its stream.

    Raises:
        BackendError: it cannot be loaded.
    """
    runner = _activated(path, library)
    feed = {name: value.contiguous().cuda() for name, value in inputs.items()}
    return lambda: runner.infer(feed, check_inputs=False, copy_outputs_to_host=False)


def _activated(path: Path, library: str) -> Any:
    trt = _polygraphy(library)
    runner = trt.TrtRunner(trt.EngineFromPath(str(path)))
    try:
        runner.activate()
    # polygraphy raises its own class, TensorRT's bindings raise RuntimeError, CUDA's OSError.
    except Exception as error:
        raise BackendError(
            f"{TITLES[library]} cannot load {path.name}: {first_line(error)}"
        ) from error
    return runner
