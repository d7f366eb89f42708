"""`lanac explain STUDENT`: why a student is what it is."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lanac.cli.options import Student


def explain_student(
    student: Student,
    slot: Annotated[str | None, typer.Argument(help="One of its slots; default: all.")] = None,
) -> None:
    """Shows why each slot has its op: what it saves, what it costs, the runner-up, a larger budget.

    Everything comes from the student's plan.json; scores and sums are predictions.
    """
    from rich.console import Console

    from lanac.explaining import explain
    from lanac.report.explain import show_explanation

    piped = not sys.stdout.isatty()
    console = Console(soft_wrap=piped, width=120 if piped else None)
    show_explanation(console, explain(student, slot))
