"""A student as an ONNX file in another precision than that of its training."""

from __future__ import annotations

from pathlib import Path

from lanac.backends.base import Runner
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.onnx_files import load_rounded, write_in_precision
from lanac.targets import Target


class OnnxVariant(FromOnnx):
    """Writes `student.PRECISION.onnx`, whatever the target's precision is."""

    def __init__(self, precision: str) -> None:
        self.name = f"onnx_{precision}"
        self._precision = precision

    def unavailable(self, target: Target) -> str | None:
        """Why it cannot be written here, or None where it can."""
        return ONNX.unavailable(target)

    def precision(self, target: Target) -> str:
        """The output's own."""
        return self._precision

    def convert(self, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
        """Inputs and outputs stay fp32, so that the file drops into the place of the other."""
        return write_in_precision(model, folder, self._precision)

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """Computes in fp32 on the CPU and rounds as the file says."""
        return load_rounded(files[0], self._precision)

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """What the comparison is worth."""
        return (
            f"{files[0].name} was compared as the file says, each result rounded to "
            f"{self._precision}, on the CPU: a runtime may sum in another order or precision",
        )
