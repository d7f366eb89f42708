"""`lanac pareto MODEL`: what each of several budgets would cost in loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.groups import with_groups
from lanac.cli.options import (
    BatchSize,
    DistillSamples,
    Json,
    Model,
    ScoreSamples,
    check_svg,
    write_svg,
)
from lanac.cli.preparing import Preparing
from lanac.settings import Settings

_DEFAULT = Settings()


@with_groups
def pareto_model(
    *,
    model: Model,
    resource: Annotated[
        str, typer.Option(help="What the budgets limit: latency, params or flops.")
    ] = "latency",
    points: Annotated[int, typer.Option(help="How many budgets.")] = 20,
    preparing: Preparing,
    distill_samples: DistillSamples = _DEFAULT.distill_samples,
    score_samples: ScoreSamples = _DEFAULT.score_samples,
    batch_size: BatchSize = _DEFAULT.batch_size,
    svg: Annotated[Path | None, typer.Option(help="Draw the front.", metavar="FILE.svg")] = None,
    json: Json = False,
) -> None:
    """Shows the best plan at each of several budgets, before a student is trained.

    The preparation is the same as that of a compilation, and is kept: `lanac MODEL --budget ...` with
    the same options goes on from there.
    """
    check_svg(svg)

    from rich.console import Console

    from lanac.fronts import pareto
    from lanac.report.console import ConsoleInstruments
    from lanac.report.pareto import draw_front, record, show_front

    console = Console(stderr=json, soft_wrap=not sys.stdout.isatty())
    teacher, given = preparing.load(model)
    front = pareto(
        teacher,
        resource=resource,
        points=points,
        settings=Settings(
            distill_samples=distill_samples, score_samples=score_samples, batch_size=batch_size
        ),
        instruments=ConsoleInstruments(console),
        **given,
    )
    if svg is not None:
        write_svg(svg, draw_front(front))
    if json:
        typer.echo(record(front))
    else:
        show_front(console, front)
        if svg is not None:
            console.print(f"drawn in {svg}", highlight=False, markup=False)
