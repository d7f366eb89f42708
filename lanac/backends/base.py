"""What every backend offers: one small interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor, fx

from lanac.errors import BackendError
from lanac.registry import Registry

Runner = Callable[..., tuple[Tensor, ...]]
"""Runs an emitted network: input tensors (B, ...) to its output tensors, flattened, in order."""


class Backend(Protocol):
    """One output of the compiler.

    Attributes:
        name: what the user writes in `--emit`.
    """

    @property
    def name(self) -> str: ...

    def unavailable(self) -> str | None:
        """Why this backend cannot run here, or None where it can."""

    def emit(
        self, student: fx.GraphModule, folder: Path, inputs: tuple[Tensor, ...]
    ) -> tuple[Path, ...]:
        """Writes the student's files into `folder`.

        Args:
            student: in eval mode, on the CPU; its sub-modules are torch.nn modules, graph modules
                or modules that torch.fx traces.
            folder: exists.
            inputs: example inputs; the first dimension is the batch and stays dynamic.

        Returns:
            The files written, the main one first.

        Raises:
            BackendError: the student has something that this backend cannot express.
        """

    def load(self, files: tuple[Path, ...]) -> Runner:
        """Loads what `emit` wrote, without lanac's help, for comparison with the student."""


BACKENDS: Registry[Backend] = Registry(
    "output", "lanac.backends", "BACKEND", "lanac.backends", BackendError
)
