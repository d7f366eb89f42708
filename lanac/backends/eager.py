"""PyTorch as it is, operator by operator: runs the source that lanac writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.backends.base import Run
from lanac.backends.pytorch import BACKEND, import_student
from lanac.targets import Target
from lanac.targets.device import cuda_device, processor_fingerprint

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Eager:
    """PyTorch on this machine's CPU or first CUDA device."""

    name = "pytorch"
    reads = "pytorch"

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""
        return target.entry.absent()

    def version(self, target: Target) -> str:
        """The version of torch and the device."""
        device = cuda_device() if target.entry.kind == "gpu" else processor_fingerprint()
        return f"torch {torch.__version__} {device}"

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Writes source and weights, as for the output `pytorch`."""
        network = module if isinstance(module, fx.GraphModule) else _calling(module, len(inputs))
        return BACKEND.emit(network.eval(), folder, inputs, target)

    def open(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...], target: Target) -> Run:
        """Imports the source; the target's precision is that of weights and inputs."""
        return torch_run(files, inputs, target)


def torch_run(
    files: tuple[Path, ...],
    inputs: tuple[Tensor, ...],
    target: Target,
    changed: Callable[[Any], Any] = lambda model: model,
) -> Run:
    """One inference of emitted source per call, as `changed` makes it: compiled, say."""
    is_gpu, place = target.entry.kind == "gpu", _place(target)
    dtype = _DTYPES[target.precision]
    model = changed(import_student(files[0]).load(files[1]).to(place, dtype))
    values = [
        value.to(place, dtype if value.is_floating_point() else value.dtype) for value in inputs
    ]

    def run() -> None:
        with torch.no_grad():
            model(*values)
        if is_gpu:
            torch.cuda.synchronize()

    return run


def _place(target: Target) -> str:
    """What torch calls the target's device."""
    return "cuda" if target.entry.kind == "gpu" else "cpu"


def _calling(module: nn.Module, inputs: int) -> fx.GraphModule:
    """A network of one module."""
    graph = fx.Graph()
    names = [graph.placeholder(f"x{place}") for place in range(inputs)]
    graph.output(graph.call_module("op", tuple(names)))
    return fx.GraphModule({"op": module}, graph)


RUNTIME = Eager()
