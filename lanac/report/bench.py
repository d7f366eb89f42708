"""A benchmark of a finished student, on the screen and as JSON."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape

from lanac.benching import Benchmark
from lanac.version import __version__

SCHEMA = 1
"""Version of the JSON; it grows when a key changes its meaning or goes away."""


def show_benchmark(console: Console, found: Benchmark) -> None:
    """Teacher, student and their ratio, and where that was measured."""
    clock = "CPU time of one thread" if found.target.is_one_thread else "wall time"
    rows = (
        ("teacher", str(found.teacher_ms)),
        ("student", str(found.student_ms)),
        ("ratio", f"{found.ratio:.3f}x ({found.low:.3f} to {found.high:.3f})"),
    )
    console.print(f"[bold]{escape(str(found.student))}[/] on {found.target}", highlight=False)
    for name, text in rows:
        console.print(f"  {name:8} {text}", highlight=False)
    console.print(
        f"[dim]measured here: medians and quartiles of {found.student_ms.rounds} interleaved rounds, "
        f"{clock}[/]",
        highlight=False,
    )


def record(found: Benchmark) -> str:
    """The same as JSON."""
    text = {
        "schema": SCHEMA,
        "lanac": __version__,
        "student": str(found.student),
        "target": str(found.target),
        "version": found.version,
        "clock": "cpu" if found.target.is_one_thread else "wall",
        "teacher_ms": dict(vars(found.teacher_ms)),
        "student_ms": dict(vars(found.student_ms)),
        "ratio": {"median": found.ratio, "low": found.low, "high": found.high},
    }
    return json.dumps(text, indent=2)
