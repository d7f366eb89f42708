"""The files of a student: written aside, compared with the student, then put into their place."""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType

from torch import Tensor, fx

from lanac.backends.agreement import Agreement, compare, disagreement
from lanac.backends.base import BACKENDS
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.onnx import export_model, save_model
from lanac.backends.onnx_files import read_signature
from lanac.compilation import Compilation
from lanac.errors import BackendError
from lanac.ir import named_tensors
from lanac.targets import Target
from lanac.workspace import disk_errors

TEACHER_NAME = "teacher.onnx"
"""Beside the students of a teacher: `lanac bench` times it with them."""


class StudentFiles:
    """Writes outputs one by one; nothing appears before all of them have agreed with the student.

    Attributes:
        student: as it runs.
        inputs: real ones.
        target: what the files are for.
        files: names of what was written, by output, relative to the folder.
        verified: how it compares with the student, by output.
    """

    def __init__(
        self, student: fx.GraphModule, inputs: tuple[Tensor, ...], target: Target, folder: Path
    ) -> None:
        self.student, self.inputs, self.target = student, inputs, target
        self.files: dict[str, tuple[str, ...]] = {}
        self.verified: dict[str, Agreement] = {}
        self._folder = folder
        self._partial = folder.with_name(f".{folder.name}.partial")
        self._scratch = folder.with_name(f".{folder.name}.exact")

    def __enter__(self) -> StudentFiles:
        with disk_errors(self._folder):
            _fresh(self._partial)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    @cached_property
    def exact(self) -> Path:
        """The student as an fp32 ONNX file: one export serves all that is made of it, and timing."""
        with disk_errors(self._folder):
            place = _fresh(self._scratch / "student")
            return ONNX.emit(self.student, place, self.inputs, self.target)[0]

    def add(self, name: str, *, classes: bool) -> None:
        """Writes an output and compares it with the student.

        Args:
            name: of the output.
            classes: whether what the network gives are classes.

        Raises:
            BackendError: it cannot be written, or does not agree; the files are then kept aside.
        """
        backend = BACKENDS.get(name)
        with disk_errors(self._folder):
            if name == ONNX.name:
                beside = self.exact.parent.iterdir()
                written = tuple(
                    Path(shutil.copy(path, self._partial))
                    for path in sorted(beside, key=lambda path: len(path.name))
                )
            elif isinstance(backend, FromOnnx):
                written = backend.convert(self.exact, self._partial, self.target)
            else:
                written = backend.emit(self.student, self._partial, self.inputs, self.target)
            found = compare(backend, written, self.target, self._run, self.inputs, classes=classes)
            if not found.is_good:
                kept = _replace(self._partial, self._partial.with_name("rejected"))
                why = disagreement(
                    found, written[0].name, "real", self.exact, self.inputs, self.target
                )
                raise BackendError(f"{why}. The file is kept in {kept} for inspection")
        self.files[name] = tuple(path.relative_to(self._partial).as_posix() for path in written)
        self.verified[name] = found

    def publish(self) -> None:
        """Puts the finished folder into its place."""
        with disk_errors(self._folder):
            _replace(self._partial, self._folder)

    def read_as(self, output: str) -> tuple[Path, ...]:
        """The student's published files of an output; written for the moment where not asked for."""
        if output in self.files:
            return tuple(self._folder / name for name in self.files[output])
        return self._made(output, self.student, self.exact)

    def teacher_read_as(self, output: str, compilation: Compilation) -> tuple[Path, ...]:
        """The teacher's files of an output, for the moment; as ONNX they stay."""
        program = compilation.need("program")
        return self._made(output, program.teacher, teacher_file(compilation, self.inputs))

    def _made(self, output: str, network: fx.GraphModule, model: Path) -> tuple[Path, ...]:
        """Files of an output of a network of which there is the ONNX model already."""
        if output == ONNX.name:
            return (model,)
        backend = BACKENDS.get(output)
        with disk_errors(self._folder):
            self._scratch.mkdir(exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=self._scratch))
            if isinstance(backend, FromOnnx):
                return backend.convert(model, place, self.target)
            return backend.emit(network.eval(), place, self.inputs, self.target)

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in named_tensors(self.student(*inputs)))


def student_folder(compilation: Compilation) -> Path:
    """Where a student's files go: one folder per budget and target, such as `0.5x@cpu`."""
    budget = str(compilation.budget).replace("=", "-")
    return compilation.out / f"{budget}@{compilation.target.short}"


def teacher_file(compilation: Compilation, inputs: tuple[Tensor, ...]) -> Path:
    """The teacher as ONNX, beside its students; written once for all of them.

    A file of another input size is written anew.
    """
    program, path = compilation.need("program"), compilation.out / TEACHER_NAME
    if path.exists():
        wanted = [(spec.shape[1:], str(spec.dtype)) for spec in program.input_specs]
        found = read_signature(path).inputs
        if wanted == [(value.shape[1:], f"torch.{value.dtype}") for value in found]:
            return path
    save_model(export_model(program.teacher, inputs), compilation.out, TEACHER_NAME)
    return path


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _replace(partial: Path, folder: Path) -> Path:
    """Puts the finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder
