"""Outputs that are made of the student's ONNX model, at once or later from a finished student."""

from __future__ import annotations

import abc
import tempfile
from pathlib import Path

from torch import Tensor, fx

from lanac.backends.base import Runner
from lanac.backends.onnx import export_model, save_model
from lanac.targets import Target


class FromOnnx(abc.ABC):
    """What such outputs share: `convert` makes the files of `student.onnx`, `emit` exports first."""

    name: str

    @abc.abstractmethod
    def unavailable(self, target: Target) -> str | None:
        """Why this output cannot be written here for that target, or None where it can."""

    @abc.abstractmethod
    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """Loads what `convert` wrote, for comparison with the student."""

    @abc.abstractmethod
    def convert(self, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
        """Writes the files of an fp32 ONNX model with a dynamic batch; the main one comes first.

        Args:
            model: the file; large weights lie beside it.
            folder: exists; may be the one of the model.
            target: what the files are for.

        Raises:
            BackendError: the model has something that this output cannot express.
        """

    def emit(
        self, student: fx.GraphModule, folder: Path, inputs: tuple[Tensor, ...], target: Target
    ) -> tuple[Path, ...]:
        """Exports the student and converts what comes out."""
        with tempfile.TemporaryDirectory(prefix=".onnx.", dir=folder) as draft:
            model, *_ = save_model(export_model(student, inputs), Path(draft))
            return self.convert(model, folder, target)

    def precision(self, target: Target) -> str:
        """The target's own."""
        return target.precision

    def unbuilt(self, target: Target) -> str | None:
        """Why the files only say how to build what is meant, or None where they are it."""
        return None

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """Nothing: the files are run as they are."""
        return ()
