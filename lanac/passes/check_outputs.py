"""Checks that what is asked for can be written, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from lanac.backends.pytorch import write_source
from lanac.compilation import Compilation


@dataclass(frozen=True)
class CheckOutputs:
    """Raises where the teacher itself could not be written: hours of training would be lost.

    Only source code is tried: it asks the most of a network, and writing it takes a second.

    Attributes:
        backends: names of the outputs.
    """

    backends: tuple[str, ...]
    name = "check_outputs"
    needs = ("program",)
    provides = ()

    def run(self, compilation: Compilation) -> Compilation:
        if "pytorch" in self.backends:
            write_source(compilation.need("program").teacher, compilation.example)
        return compilation
