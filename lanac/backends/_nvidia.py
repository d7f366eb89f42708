"""What the outputs and runtimes of NVIDIA's two engines share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from lanac.backends._engines import (
    RTX,
    TENSORRT,
    TITLES,
    build_engine,
    convert_arguments,
    library_version,
    timed_engine,
)
from lanac.backends.base import Run
from lanac.backends.onnx_files import read_signature, write_in_precision
from lanac.backends.onnxruntime import export_for_timing
from lanac.targets import Target
from lanac.targets.device import cuda_device

_OLDEST = (10, 4)
_OLDEST_FOR_BLACKWELL = (10, 8)
_OLDEST_FOR_BF16 = (10, 15)
"""bf16 models have opset 22; this is the first whose documentation names an opset above 20."""

PACKAGES = {TENSORRT: "tensorrt", RTX: "tensorrt-rtx"}


def refused(target: Target, library: str) -> str | None:
    """Why nothing of that library is for the target's device, wherever lanac runs; None where it is."""
    device, title = target.entry, TITLES[library]
    if device.kind != "gpu":
        return f"{title} runs on NVIDIA GPUs, and {target.device} is none"
    if target.device == "cuda" and cuda_device() is None:
        return (
            "cuda is this machine's first CUDA device, and there is none; name the device that "
            "the files are for, such as rtx3090"
        )
    known = dict(device.runtimes)
    if target.device == "cuda" and library == RTX:
        known[RTX] = known[TENSORRT]  # the builder knows what it can build for the GPU that is here
    if library not in known:
        where = ".".join(map(str, device.capability or ()))
        return f"{title} does not support {device.title} (compute capability {where})"
    if target.precision not in known[library]:
        return (
            f"{title} on {target.device} computes in {', '.join(known[library])}, not in "
            f"{target.precision}"
        )
    if importlib.util.find_spec("polygraphy") is None:
        return "polygraphy is not installed (pip install polygraphy)"
    return None


def not_runnable(target: Target, library: str) -> str | None:
    """Why engines for the target cannot be run here, or None where they can."""
    reason = refused(target, library)
    if reason is not None:
        return reason
    installed = library_version(library)
    if installed is None:
        return f"{PACKAGES[library]} is not installed (pip install {PACKAGES[library]})"
    absent = target.entry.absent()
    if absent is not None:
        return absent
    if library == TENSORRT and not _fits(installed, target):
        return f"TensorRT {installed} is installed, and the target needs {wanted_version(target)}"
    return None


def wanted_version(target: Target) -> str:
    """Which TensorRT the engine is to be built with: `10.4`, or `10.8 or newer`."""
    exact = exact_version(target)
    oldest = ".".join(map(str, exact or oldest_version(target)))
    return oldest if exact else f"{oldest} or newer"


def exact_version(target: Target) -> tuple[int, int] | None:
    """The version that the user named, or the last that knows the device."""
    return target.tensorrt or target.entry.last_tensorrt


def oldest_version(target: Target) -> tuple[int, int]:
    """The oldest TensorRT that will do."""
    is_blackwell = (target.entry.capability or (0, 0)) >= (10, 0)
    oldest = _OLDEST_FOR_BLACKWELL if is_blackwell else _OLDEST
    return max(oldest, _OLDEST_FOR_BF16) if target.precision == "bf16" else oldest


def _fits(installed: str, target: Target) -> bool:
    major, minor, *_ = (*installed.split("."), "0", "0")
    found = (int(major), int(minor))
    exact = exact_version(target)
    return found == exact if exact else found >= oldest_version(target)


def capability(target: Target) -> tuple[int, int]:
    """The compute capability of the target's device; of the GPU here where it is `cuda`."""
    known = target.entry.capability
    return known if known is not None else torch.cuda.get_device_capability(0)


class EngineRuntime:
    """Times engines on the GPU of this machine.

    Attributes:
        name: of the library, and of the output whose files it runs.
    """

    def __init__(self, library: str) -> None:
        self.name = self.reads = library

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""
        return not_runnable(target, self.name)

    def version(self, target: Target) -> str:
        """The library's version and the GPU."""
        return f"{self.name} {library_version(self.name)} {cuda_device()} cuda {torch.version.cuda}"

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Builds an engine of fixed shapes in the target's precision."""
        exact = folder / "timed.onnx"
        exact.write_bytes(export_for_timing(module, inputs))
        model, *_ = write_in_precision(exact, folder, target.precision, "timed.low.onnx")
        engine = folder / "timed.engine"
        signature = read_signature(model)
        cache = None if self.name == RTX else str(folder / "timing.cache")
        made = convert_arguments(
            str(model.resolve()),
            str(engine.resolve()),
            signature,
            target.batch,
            timing_cache=cache,
            capability=capability(target) if self.name == RTX else None,
        )
        build_engine(made, folder, self.name)
        return engine, model

    def open(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...], target: Target) -> Run:
        """Puts the inputs onto the GPU once; an inference ends when the GPU has ended it."""
        signature = read_signature(files[1])
        names = [value.name for value in signature.inputs]
        by_place = {f"timed_input_{place}": value for place, value in enumerate(inputs)}
        # An input of which only the shape is used is lost in an export for timing.
        feed = by_place if set(names) <= set(by_place) else dict(zip(names, inputs, strict=True))
        return timed_engine(files[0], {name: feed[name] for name in names}, self.name)
