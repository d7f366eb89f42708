"""`lanac bench STUDENT`: teacher and student side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.options import Json, Student, StudentTarget


def bench_student(
    student: Student,
    target: StudentTarget = None,
    rounds: Annotated[int, typer.Option(min=3, help="Measurements of each network.")] = 41,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="The teacher as ONNX. Default: the file that compiling left beside the students.",
            metavar="FILE.onnx",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Times a finished student and its teacher, interleaved, on this machine.

    Both are made of their ONNX files: neither model.py nor data are needed, and no code of the
    student is executed.
    """
    from rich.console import Console

    from lanac.benching import bench
    from lanac.report.bench import record, show_benchmark
    from lanac.report.console import ConsoleInstruments

    # JSON has standard output for itself.
    console = Console(stderr=json, soft_wrap=not sys.stdout.isatty())
    found = bench(
        student,
        target=target,
        rounds=rounds,
        teacher=teacher,
        instruments=ConsoleInstruments(console),
    )
    if json:
        typer.echo(record(found))
    else:
        show_benchmark(console, found)
