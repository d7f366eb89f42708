"""`lanac pareto MODEL`: what each of several budgets would cost in loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.anchors import load_anchors, parse_anchors
from lanac.cli.options import (
    Anchors,
    BatchSize,
    Costs,
    DataFolder,
    Device,
    DistillSamples,
    Fix,
    Granularity,
    Keep,
    MaxChanged,
    Missing,
    Model,
    Only,
    Ops,
    Out,
    Pool,
    ScoreSamples,
    Seed,
    Skip,
    Target,
    WorkspaceFolder,
    check_svg,
    own_ops,
    separated,
    write_svg,
)
from lanac.settings import Settings

_DEFAULT = Settings()


def pareto_model(
    model: Model,
    resource: Annotated[
        str, typer.Option(help="What the budgets limit: latency, params or flops.")
    ] = "latency",
    points: Annotated[int, typer.Option(help="How many budgets.")] = 20,
    target: Target = "cpu",
    data: DataFolder = None,
    out: Out = None,
    pool: Pool = "default",
    ops: Ops = None,
    granularity: Granularity = "block",
    only: Only = None,
    skip: Skip = None,
    fix: Fix = None,
    keep: Keep = None,
    max_changed: MaxChanged = None,
    anchor: Anchors = None,
    costs: Costs = None,
    missing: Missing = "refuse",
    seed: Seed = 0,
    device: Device = "auto",
    workspace: WorkspaceFolder = None,
    distill_samples: DistillSamples = _DEFAULT.distill_samples,
    score_samples: ScoreSamples = _DEFAULT.score_samples,
    batch_size: BatchSize = _DEFAULT.batch_size,
    svg: Annotated[Path | None, typer.Option(help="Draw the front.", metavar="FILE.svg")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Shows the best plan at each of several budgets, before a student is trained.

    The preparation is the same as that of a compilation, and is kept: `lanac MODEL --budget ...` with
    the same options goes on from there.
    """
    check_svg(svg)

    from rich.console import Console

    from lanac.frontend.sources import load_source
    from lanac.fronts import pareto
    from lanac.report.console import ConsoleInstruments
    from lanac.report.pareto import draw_front, record, show_front

    console = Console(stderr=json, soft_wrap=not sys.stdout.isatty())
    brought = own_ops(ops)
    measured = parse_anchors(anchor)
    source = load_source(model, data)
    front = pareto(
        source.model,
        resource=resource,
        points=points,
        pool=pool,
        settings=Settings(
            distill_samples=distill_samples, score_samples=score_samples, batch_size=batch_size
        ),
        out=out if out is not None else Path(f"{source.name}.lanac"),
        **source.task,
        target=target,
        workspace=workspace,
        ops=brought,
        granularity=granularity,
        only=separated(only),
        skip=separated(skip),
        fix=fix or (),
        keep=separated(keep),
        max_changed=max_changed,
        anchors=load_anchors(measured, target),
        costs=costs,
        missing=missing,
        seed=seed,
        device=device,
        instruments=ConsoleInstruments(console),
    )
    if svg is not None:
        write_svg(svg, draw_front(front))
    if json:
        typer.echo(record(front))
    else:
        show_front(console, front)
        if svg is not None:
            console.print(f"drawn in {svg}", highlight=False, markup=False)
