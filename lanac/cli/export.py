"""`lanac export STUDENT`: further outputs of a finished student."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.options import Student, StudentTarget


def export_student(
    student: Student,
    emit: Annotated[str, typer.Option(help="Outputs, separated by commas, such as tensorrt_rtx.")],
    target: StudentTarget = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the files. Default: in that of the student, named after --target."
        ),
    ] = None,
) -> None:
    """Writes further outputs of a finished student, for this or another target.

    All are made of its student.onnx: neither the teacher nor data are needed, and no code of the
    student is executed.
    """
    from rich.console import Console

    from lanac.exporting import export
    from lanac.report.export import show_export

    console = Console(soft_wrap=not sys.stdout.isatty())
    show_export(console, export(student, emit=emit, target=target, out=out))
