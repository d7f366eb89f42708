"""A finished student on disk: its plan.json, and its files, known by their checksums.

Nothing here executes code: of a student's files only its ONNX model is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanac.errors import CommandError
from lanac.targets import Target, parse_target
from lanac.workspace import checksum

PLAN_NAME = "plan.json"
_ONNX = "onnx"
_AGAIN = "compile again: it is quick now"


@dataclass(frozen=True)
class Finished:
    """What a compilation has emitted.

    Attributes:
        folder: where it lies.
        target: what it was compiled for.
        files: names by output.
        checksums: SHA-256 by name, also of the teacher's files.
        teacher_name: where the teacher lies, relative to the folder.
    """

    folder: Path
    target: Target
    files: Mapping[str, tuple[str, ...]]
    checksums: Mapping[str, str]
    teacher_name: str

    def model(self) -> Path:
        """The student as an fp32 ONNX file.

        Raises:
            CommandError: it was not emitted, or is not what it was.
        """
        names = self.files.get(_ONNX, ())
        if not names:
            raise CommandError(
                f"{self.folder} has no student.onnx, of which other outputs are made; compile again "
                "with --emit pytorch,onnx: what is finished is not computed again"
            )
        for name in names:
            self._check(name)
        return self.folder / names[0]

    def teacher(self) -> Path:
        """The teacher as an fp32 ONNX file, beside the students.

        Raises:
            CommandError: it is not there, or not what it was.
        """
        path = self.folder / self.teacher_name
        if not path.exists():
            raise CommandError(
                f"{path} is missing: the teacher of the student in {self.folder}. Put it back, or "
                "name it with --teacher FILE.onnx"
            )
        for name in sorted(self.checksums):
            if name.startswith(self.teacher_name):
                self._check(name)
        return path

    def _check(self, name: str) -> None:
        path, known = self.folder / name, self.checksums.get(name)
        if known is None:
            raise CommandError(
                f"{self.folder / PLAN_NAME} has no checksum of {name}: an older lanac wrote it; "
                f"{_AGAIN}"
            )
        if not path.exists():
            raise CommandError(f"{path} is missing; {_AGAIN}")
        if checksum(path) != known:
            raise CommandError(
                f"{path} is not what lanac wrote: its checksum is not the one in {PLAN_NAME}; "
                f"{_AGAIN}"
            )


def read_student(folder: Path) -> Finished:
    """A student by its folder.

    Raises:
        CommandError: there is none.
    """
    record = read_plan(folder)
    place = folder if folder.is_dir() else folder.parent
    try:
        files = {str(name): tuple(map(str, some)) for name, some in record["files"].items()}
        checksums = {str(name): str(some) for name, some in record.get("checksums", {}).items()}
        target = parse_target(str(record["target"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"{place / PLAN_NAME} is damaged: {type(error).__name__}: {error}; {_AGAIN}"
        ) from error
    teacher = str(record.get("teacher_file", "../teacher.onnx"))
    return Finished(place, target, files, checksums, teacher)


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan.json of a student, by the folder or the file.

    Raises:
        CommandError: there is none, or it is damaged.
    """
    path = folder / PLAN_NAME if folder.is_dir() else folder
    what = f"expected the folder of a student, with its {PLAN_NAME}"
    try:
        record: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{folder}: {what}; {error.strerror or error}") from error
    except ValueError as error:
        raise CommandError(f"{path} is damaged: {error}; {what}") from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise CommandError(f"{path} was written by an older lanac; {_AGAIN}")
    return record
