"""`lanac inspect MODEL`: what lanac sees of a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.groups import with_groups
from lanac.cli.options import InputSize, Json, Model, Slots, check_svg, write_svg

_WIDE = 120
"""Columns of the table where the output is no terminal."""


@with_groups
def inspect_model(
    *,
    model: Model,
    input_size: InputSize = None,
    target: Annotated[
        str, typer.Option(help="What latency is measured on: cpu[:bN][:tN] (batch, threads).")
    ] = "cpu",
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure the share of the latency.")
    ] = True,
    slots: Slots,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Download the trained weights of timm: and torchvision: networks; random ones "
            "show the same.",
        ),
    ] = False,
    svg: Annotated[
        Path | None, typer.Option(help="Draw the graph with its slots.", metavar="FILE.svg")
    ] = None,
    json: Json = False,
) -> None:
    """Shows a network's slots: shapes, params, flops, share of the latency, what is left out.

    Nothing is trained, and nothing is written but the picture. A model.py needs only model() and
    example_inputs() or train_data().
    """
    check_svg(svg)

    from rich.console import Console

    from lanac.frontend.sources import load_source_to_inspect, parse_size
    from lanac.inspection import inspect
    from lanac.report.inspection import QuietInstruments, record, show_inspection
    from lanac.report.svg import draw

    # JSON has standard output for itself; whatever else there is to say goes to the other one.
    piped = not sys.stdout.isatty()
    console = Console(stderr=json, soft_wrap=piped, width=_WIDE if piped else None)
    size = parse_size(input_size) if input_size is not None else None
    source = load_source_to_inspect(model, size, pretrained)
    found = inspect(
        source.model,
        example_inputs=source.example_inputs,
        train_data=source.train_data,
        name=source.name,
        target=target,
        latency=latency,
        **slots.given(),
        instruments=QuietInstruments(console),
    )
    if svg is not None:
        write_svg(svg, draw(found))
    if json:
        typer.echo(record(found, svg))
    else:
        show_inspection(console, found, svg)
