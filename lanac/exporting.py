"""export(): further outputs of a finished student, without its teacher and its data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanac.backends.agreement import Agreement, compare, disagreement
from lanac.backends.base import BACKENDS
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.onnx_files import read_signature
from lanac.compiler import parse_outputs
from lanac.errors import BackendError, CommandError
from lanac.finished import read_student
from lanac.targets import Target, parse_target
from lanac.workspace import checksum, disk_errors, write_atomically

RECORD_NAME = "export.json"
_SAMPLES = 16


@dataclass(frozen=True)
class Exported:
    """What was made of a student.

    Attributes:
        student: its folder.
        folder: where the new files are.
        target: what they are for.
        files: names by output.
        verified: how each compares with student.onnx on random inputs.
    """

    student: Path
    folder: Path
    target: Target
    files: dict[str, tuple[str, ...]]
    verified: dict[str, Agreement]


def export(
    student: str | Path,
    *,
    emit: str | Sequence[str],
    target: str | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Makes further outputs of a student that a compilation has emitted.

    All of them are made of student.onnx; student.py is not executed. They are compared with it on
    random inputs, because the data need not be here.

    Args:
        student: its folder.
        emit: names of the outputs.
        target: what they are for; default: what the student was compiled for.
        out: where they go; default: a folder in that of the student, called like the target.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    finished = read_student(Path(student))
    wanted = parse_target(target) if target is not None else finished.target
    names = parse_outputs(emit, wanted)
    backends = [_from_onnx(name) for name in names]
    model = finished.model()
    folder = Path(out) if out is not None else finished.folder / wanted.short
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=folder) as scratch:
            made = _make(backends, model, Path(scratch), wanted)
            for path in sorted(Path(scratch).iterdir()):
                _replace(path, folder / path.name)
        result = Exported(finished.folder, folder, wanted, *made)
        _write_record(result)
    return result


def _from_onnx(name: str) -> FromOnnx:
    backend = BACKENDS.get(name)
    if isinstance(backend, FromOnnx):
        return backend
    known = sorted(other.name for other in BACKENDS if isinstance(other, FromOnnx))
    raise CommandError(
        f"output {name!r} is made while compiling, not of a finished student; what can be made of "
        f"its student.onnx: {', '.join(known)}"
    )


def _make(
    backends: Sequence[FromOnnx], model: Path, folder: Path, target: Target
) -> tuple[dict[str, tuple[str, ...]], dict[str, Agreement]]:
    """Writes and compares: file names and agreement by output."""
    exact = ONNX.load((model,), target)
    inputs = read_signature(model).random_inputs(_SAMPLES)
    files, verified = {}, {}
    for backend in backends:
        written = backend.convert(model, folder, target)
        found = compare(backend, written, target, exact, inputs, classes=False)
        if not found.is_good:
            raise BackendError(
                disagreement(found, written[0].name, "random", model, inputs, target)
            )
        files[backend.name] = tuple(path.relative_to(folder).as_posix() for path in written)
        verified[backend.name] = found
    return files, verified


def _replace(made: Path, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    made.replace(place)


def _write_record(result: Exported) -> None:
    """Notes what is there, beside what earlier exports have noted."""
    path = result.folder / RECORD_NAME
    outputs: dict[str, Any] = {}
    if path.exists():
        outputs = json.loads(path.read_text(encoding="utf-8"))["outputs"]
    for name, files in result.files.items():
        outputs[name] = {
            "target": str(result.target),
            "files": {file: checksum(result.folder / file) for file in files},
            "verified": dict(vars(result.verified[name])),
            "inputs": "random",
        }
    text = json.dumps({"schema": 1, "outputs": outputs}, indent=2) + "\n"
    write_atomically(path, text.encode())
