"""What `lanac measure` shows at the end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lanac.targets import CostFile


def show_table(console: Console, table: CostFile, path: Path) -> None:
    """A few lines on a cost table that was written."""
    timed = sum(entry.latency_ms is not None for entry in table.entries)
    console.print(
        f"{path}: {timed} of {len(table.entries)} ops in {len(table.slots)} slots measured on "
        f"{table.device} ({table.target}, {table.runtime})",
        highlight=False,
        markup=False,
    )
    console.print(
        f"the network takes {table.latency_ms:.3f} ms; sums of parts are off by "
        f"{100 * table.error:.1f} % on average over {len(table.networks)} whole networks",
        highlight=False,
        markup=False,
    )
    console.print(
        f"use it anywhere with --target {table.target} --costs {path}",
        highlight=False,
        markup=False,
    )
