"""PyTorch compiled by torch.compile with its default, Inductor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lanac.backends.base import Run
from lanac.backends.eager import RUNTIME as EAGER
from lanac.backends.eager import torch_run
from lanac.errors import BackendError, first_line
from lanac.targets import Target


class Inductor:
    """torch.compile on this machine's CPU or first CUDA device; compiles when a network is opened."""

    name = "inductor"
    reads = "pytorch"

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""
        if target.entry.kind == "cpu" and _compiler() is None:
            return "torch.compile needs a C++ compiler, and there is none (install g++, or set CXX)"
        return EAGER.unavailable(target)

    def version(self, target: Target) -> str:
        """The version of torch, the compiler and the device."""
        compiler = Path(_compiler() or "").name if target.entry.kind == "cpu" else "triton"
        return f"{EAGER.version(target)} {compiler}"

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Writes source and weights, as for the output `pytorch`."""
        return EAGER.write(module, inputs, folder, target)

    def open(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...], target: Target) -> Run:
        """Compiles for the shapes of the inputs, in the first call, which is made here."""
        run = torch_run(files, inputs, target, _compiled)
        try:
            run()
        # Inductor and what it calls raise anything.
        except Exception as error:
            raise BackendError(f"torch.compile refuses the network: {first_line(error)}") from error
        return run


def _compiled(model: Any) -> Any:
    # Each network is another function, also where the source is equal: no limit of variants.
    torch._dynamo.reset()
    return torch.compile(model, dynamic=False)


def _compiler() -> str | None:
    """Where the C++ compiler is that torch.compile would call."""
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    return next(filter(None, map(shutil.which, names)), None)


RUNTIME = Inductor()
