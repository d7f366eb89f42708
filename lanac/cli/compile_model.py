"""`lanac MODEL`: makes a trained network faster."""

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
    EvaluateImages,
    Fix,
    Granularity,
    Keep,
    LearningRate,
    MaxChanged,
    Missing,
    Model,
    Only,
    Ops,
    Out,
    Plans,
    Pool,
    ScoreSamples,
    SearchEvaluations,
    Seed,
    Skip,
    Target,
    WorkspaceFolder,
    own_ops,
    separated,
)
from lanac.errors import BudgetError
from lanac.settings import Settings
from lanac.version import __version__

_DEFAULT = Settings()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lanac {__version__}")
        raise typer.Exit


def compile_model(
    model: Model,
    budget: Annotated[
        str,
        typer.Option(
            help="0.5x, 12ms, params=5M, flops=0.6x; joined by + where all must hold, separated by "
            "commas for one student each."
        ),
    ] = "0.5x",
    target: Target = "cpu",
    data: DataFolder = None,
    out: Out = None,
    pool: Pool = "default",
    ops: Ops = None,
    emit: Annotated[
        str | None,
        typer.Option(
            help="Outputs, separated by commas. Default: pytorch, onnx and what the target's runtime "
            "runs, such as tensorrt. (lanac targets lists them)"
        ),
    ] = None,
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
    plans: Plans = _DEFAULT.plans,
    search: Annotated[
        str,
        typer.Option(
            help="How plans are found: scip. For comparison: random, evolution, snas, enas.",
            metavar="METHOD",
        ),
    ] = _DEFAULT.search,
    search_evaluations: SearchEvaluations = _DEFAULT.search_evaluations,
    evaluate_images: EvaluateImages = _DEFAULT.evaluate_images,
    finalists: Annotated[
        int, typer.Option(min=1, help="Plans that are timed as whole networks.")
    ] = _DEFAULT.finalists,
    finalist_steps: Annotated[
        int,
        typer.Option(
            min=0, help="Steps of finetuning of each finalist within the budget, to choose by."
        ),
    ] = _DEFAULT.finalist_steps,
    refine: Annotated[
        int, typer.Option(min=0, help="Rounds of looking for better plans around the best one.")
    ] = _DEFAULT.refine,
    finetune_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of finetuning.")
    ] = _DEFAULT.finetune_epochs,
    learning_rate: LearningRate = _DEFAULT.learning_rate,
    batch_size: BatchSize = _DEFAULT.batch_size,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Makes a trained network faster: replaces inefficient parts by cheaper ones that imitate them.

    Every result is kept: a run that was stopped goes on where it was, and another budget reuses
    what was prepared.
    """
    from rich.console import Console

    from lanac.compiler import compile
    from lanac.frontend.sources import load_source
    from lanac.report.console import ConsoleInstruments, show_result
    from lanac.report.latency import is_unmeasured
    from lanac.report.summary import verdict

    console = Console(soft_wrap=not sys.stdout.isatty())
    brought = own_ops(ops)  # first: quicker than the model
    measured = parse_anchors(anchor)
    source = load_source(model, data)
    result = compile(
        source.model,
        **source.task,
        budget=budget,
        target=target,
        out=out if out is not None else Path(f"{source.name}.lanac"),
        workspace=workspace,
        pool=pool,
        ops=brought,
        emit=emit,
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
        settings=Settings(
            distill_samples=distill_samples,
            score_samples=score_samples,
            plans=plans,
            search=search,
            search_evaluations=search_evaluations,
            evaluate_images=evaluate_images,
            finalists=finalists,
            finalist_steps=finalist_steps,
            refine=refine,
            finetune_epochs=finetune_epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
        ),
        instruments=ConsoleInstruments(console),
    )
    show_result(console, result)
    if result.failures:
        raise result.failures[0]
    for student in result.students:
        met, sentence = verdict(student)
        if not met:
            if is_unmeasured(student):
                raise BudgetError(f"{sentence}. The files are complete")
            raise BudgetError(
                f"{sentence}, as measured at the end. The files are complete; where the miss is "
                "small, a busy machine may be the reason"
            )
