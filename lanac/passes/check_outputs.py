"""Checks that what is asked for can be written, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lanac.backends.base import BACKENDS
from lanac.backends.pytorch import write_source
from lanac.compilation import Compilation

_LARGEST_FP16 = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True)
class CheckOutputs:
    """Raises where the teacher itself could not be written: hours of training would be lost.

    Only source code is tried: it asks the most of a network, and writing it takes a second. Where
    an output computes in fp16 and the teacher exceeds its range, this is said now: a student may
    or may not.

    Attributes:
        backends: names of the outputs.
    """

    backends: tuple[str, ...]
    name = "check_outputs"
    needs = ("program",)
    provides = ()

    def run(self, compilation: Compilation) -> Compilation:
        teacher = compilation.need("program").teacher
        if "pytorch" in self.backends:
            write_source(teacher, compilation.example)
        halves = [
            name
            for name in self.backends
            if BACKENDS.get(name).precision(compilation.target) == "fp16"
        ]
        where = exceeds(teacher, compilation.example, _LARGEST_FP16) if halves else None
        if where is not None:
            compilation.instruments.warn(
                f"the teacher exceeds the range of fp16, in which {', '.join(halves)} compute: "
                f"{where[0]!r} gives {where[1]:.4g}, the largest value is {_LARGEST_FP16:,.0f}. A "
                "student that does so too is refused at the end; bf16 and fp32 have no such limit"
            )
        return compilation


@torch.no_grad()
def exceeds(
    network: fx.GraphModule, inputs: tuple[Tensor, ...], largest: float
) -> tuple[str, float] | None:
    """The first node of a graph that gives something larger, and what it gives; None where none does."""

    class Watch(fx.Interpreter):
        found: tuple[str, float] | None = None

        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if self.found is None and isinstance(value, Tensor) and value.is_floating_point():
                peak = float(value.abs().max()) if value.numel() else 0.0
                # The target of a module is its path, which users know.
                self.found = (str(n.target), peak) if peak > largest else None
            return value

    watch = Watch(network)
    watch.run(*inputs)
    return watch.found
