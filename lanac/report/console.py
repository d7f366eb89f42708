"""The screen: progress with the time left, and the result on one page."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lanac.compilation import Compilation
from lanac.compiler import Result
from lanac.instruments import Advance, Instruments
from lanac.ir import TEACHER
from lanac.report.latency import is_unmeasured, latency_notes
from lanac.report.summary import replacements, result_rows, verdict


class ConsoleInstruments(Instruments):
    """Shows a compilation on a terminal, or as plain lines where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None

    def pass_started(self, name: str) -> None:
        return

    def pass_finished(self, name: str, seconds: float) -> None:
        self._console.print(f"[green]✓[/] {name.replace('_', ' '):<20} [dim]{seconds:7.1f} s[/]")

    def say(self, message: str) -> None:
        self._console.print(f"  {escape(message)}", highlight=False)

    def warn(self, message: str) -> None:
        self._console.print(f"[yellow]![/] {escape(message)}", highlight=False)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
        if not self._console.is_terminal:
            yield self._plain(what, total, done)
            return
        columns = (
            TextColumn("  {task.description:<24}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
        )  # fmt: skip
        with Progress(
            *columns, console=self._console, transient=True, speed_estimate_period=120
        ) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda steps: bar.advance(task, steps)

    def _plain(self, what: str, total: int, done: int) -> Advance:
        """A line at the start and then every half minute, for logs."""
        began = shown = time.monotonic()
        state = done
        self._console.print(f"  {what}: {done} of {total}", highlight=False)

        def advance(steps: int) -> None:
            nonlocal state, shown
            state += steps
            now = time.monotonic()
            if now - shown < 30 or state >= total:
                return
            shown = now
            left = (now - began) / (state - done) * (total - state)
            self._console.print(
                f"  {what}: {state} of {total}, about {_duration(left)} left", highlight=False
            )

        return advance


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def show_result(console: Console, result: Result) -> None:
    """One screen per student: teacher and student, what was replaced, where the files are."""
    for compilation in result.students:
        _show_student(console, compilation)


def _show_student(console: Console, compilation: Compilation) -> None:
    outputs = compilation.need("outputs")
    table = Table(title=f"{compilation.budget} on {compilation.target}", title_justify="left")
    for title in ("", "teacher", "student", ""):
        table.add_column(title, justify="left" if not title else "right")
    for row in result_rows(compilation):
        table.add_row(*row)
    console.print()
    console.print(table)
    changed = [f"{name}: {op}" for name, _, op in replacements(compilation) if op != str(TEACHER)]
    total = len(replacements(compilation))
    console.print(
        f"replaced {len(changed)} of {total} slots: {escape(', '.join(changed) or 'none')}",
        highlight=False,
    )
    if compilation.dropped:
        console.print(f"dropped {len(compilation.dropped)} ops that failed: see summary.md")
    met, sentence = verdict(compilation)
    colour = "red" if not met else "yellow" if is_unmeasured(compilation) else "green"
    console.print(f"[{colour}]{escape(sentence)}[/]", highlight=False)
    if is_unmeasured(compilation):
        for note in latency_notes(compilation):
            console.print(f"[yellow]{escape(note)}[/]", highlight=False)
    files = dict.fromkeys(name for names in outputs.files.values() for name in names)
    console.print(
        f"files in {outputs.folder}: {', '.join([*files, 'plan.json', 'summary.md'])}",
        highlight=False,
        soft_wrap=True,
    )
    for found in outputs.verified.values():
        for note in found.notes:
            console.print(f"[dim]{escape(note)}[/]", highlight=False, soft_wrap=True)
