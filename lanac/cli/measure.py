"""`lanac measure MODEL`: a cost table of a network on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.groups import with_groups
from lanac.cli.options import (
    InputSize,
    Model,
    Ops,
    Pool,
    Seed,
    Slots,
    Target,
    WorkspaceFolder,
    own_ops,
)


@with_groups
def measure_model(
    *,
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The table to write.", metavar="FILE.costs")
    ],
    target: Target = "cpu",
    pool: Pool = "default",
    ops: Ops = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything",
            help="Time also the ops that cannot be cheaper than what they would replace.",
        ),
    ] = False,
    input_size: InputSize = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Download the trained weights of timm: and torchvision: networks: lowrank takes its "
            "form from them.",
        ),
    ] = False,
    slots: Slots,
    seed: Seed = 0,
    workspace: WorkspaceFolder = None,
) -> None:
    """Measures what every op costs on this machine; --costs uses the table anywhere.

    Needs no training data: a model.py needs only model() and example_inputs() or train_data(). A
    measurement that was stopped goes on with the same command.
    """
    from rich.console import Console

    from lanac.frontend.sources import load_source_to_inspect, parse_size
    from lanac.measuring import measure
    from lanac.report.console import ConsoleInstruments
    from lanac.report.measurement import show_table

    console = Console(soft_wrap=not sys.stdout.isatty())
    brought = own_ops(ops)
    size = parse_size(input_size) if input_size is not None else None
    source = load_source_to_inspect(model, size, pretrained)
    table = measure(
        source.model,
        out,
        example_inputs=source.example_inputs,
        train_data=source.train_data,
        target=target,
        pool=pool,
        ops=brought,
        everything=everything,
        **slots.given(),
        workspace=workspace,
        seed=seed,
        instruments=ConsoleInstruments(console),
    )
    show_table(console, table, out)
