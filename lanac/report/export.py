"""What an export has made, on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from lanac.exporting import Exported


def show_export(console: Console, exported: Exported) -> None:
    """One line per output: its files, and how they compare with the student."""
    for name, files in exported.files.items():
        found = exported.verified[name]
        console.print(
            f"[bold]{escape(name)}[/]: {escape(', '.join(files))}: agrees with the student on "
            f"{found.samples} random inputs {found}",
            highlight=False,
        )
        for note in found.notes:
            console.print(f"  {escape(note)}", highlight=False)
    console.print(
        f"files in {escape(str(exported.folder))}, for {exported.target}", highlight=False
    )
