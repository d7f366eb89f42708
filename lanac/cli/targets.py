"""`lanac targets`: devices, and what can be done here for them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lanac.cli.options import Json

_WIDE = 120
"""Columns of the table where the output is no terminal."""


def list_targets(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A device or a whole target, such as v100 or cpu:openvino:bf16; default: all devices.",
            metavar="[TARGET]",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Lists devices: what can be measured, predicted, emitted and built here, and why not the rest."""
    from rich.console import Console

    from lanac.abilities import abilities
    from lanac.report.targets import record, show_target, show_targets

    found = abilities([target] if target is not None else [])
    if json:
        typer.echo(record(found))
        return
    piped = not sys.stdout.isatty()
    console = Console(soft_wrap=piped, width=_WIDE if piped else None)
    if target is not None:
        show_target(console, found[0])
    else:
        show_targets(console, found)
