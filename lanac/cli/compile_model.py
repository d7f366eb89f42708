"""`lanac MODEL`: makes a trained network faster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lanac.cli.groups import with_groups
from lanac.cli.options import (
    BatchSize,
    DistillSamples,
    EvaluateImages,
    LearningRate,
    Model,
    Plans,
    ScoreSamples,
    SearchEvaluations,
)
from lanac.cli.preparing import Preparing
from lanac.errors import BudgetError
from lanac.settings import Settings
from lanac.version import __version__

_DEFAULT = Settings()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lanac {__version__}")
        raise typer.Exit


@with_groups
def compile_model(
    *,
    model: Model,
    budget: Annotated[
        str,
        typer.Option(
            help="0.5x, 12ms, params=5M, flops=0.6x; joined by + where all must hold, separated by "
            "commas for one student each."
        ),
    ] = "0.5x",
    emit: Annotated[
        str | None,
        typer.Option(
            help="Outputs, separated by commas. Default: pytorch, onnx and what the target's runtime "
            "runs, such as tensorrt. (lanac targets lists them)"
        ),
    ] = None,
    preparing: Preparing,
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
    from lanac.report.console import ConsoleInstruments, show_result
    from lanac.report.latency import is_unmeasured
    from lanac.report.summary import verdict

    console = Console(soft_wrap=not sys.stdout.isatty())
    teacher, given = preparing.load(model)
    result = compile(
        teacher,
        budget=budget,
        emit=emit,
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
        **given,
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
