"""`lanac compare MODEL`: the comparisons of the paper, for the user's own model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lanac.cli.groups import with_groups
from lanac.cli.options import (
    BatchSize,
    DistillSamples,
    EvaluateImages,
    Json,
    LearningRate,
    Model,
    Plans,
    ScoreSamples,
    SearchEvaluations,
    check_svg,
    separated,
    write_svg,
)
from lanac.cli.preparing import Preparing
from lanac.errors import CommandError
from lanac.settings import ComparisonSettings, Settings

_DEFAULT, _COMPARISON = Settings(), ComparisonSettings()
_RANKING = "ranking"


@with_groups
def compare_model(
    *,
    model: Model,
    show: Annotated[
        str,
        typer.Option(
            help="methods: ways of finding plans. ranking: predicted against measured losses. pools: "
            "pools of several sizes.",
            metavar="WHICH",
        ),
    ] = "methods",
    budget: Annotated[str, typer.Option(help="One budget, as for a compilation.")] = "0.5x",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="For methods: scip, random, evolution, snas, enas, separated by commas. "
            "Default: all.",
            metavar="NAMES",
        ),
    ] = None,
    preparing: Preparing,
    distill_samples: DistillSamples = _DEFAULT.distill_samples,
    score_samples: ScoreSamples = _DEFAULT.score_samples,
    plans: Plans = _DEFAULT.plans,
    search_evaluations: SearchEvaluations = _DEFAULT.search_evaluations,
    search_images: Annotated[
        int,
        typer.Option(min=2, help="Training samples that a search or a ranking judges plans on."),
    ] = _COMPARISON.search_images,
    evaluate_images: EvaluateImages = _DEFAULT.evaluate_images,
    finetune_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of equal finetuning; 0 for none.")
    ] = 1,
    finetune_samples: Annotated[
        int, typer.Option(min=2, help="Training samples of equal finetuning.")
    ] = _COMPARISON.finetune_samples,
    learning_rate: LearningRate = _DEFAULT.learning_rate,
    batch_size: BatchSize = _DEFAULT.batch_size,
    random_plans: Annotated[
        int, typer.Option(help="For ranking: plans drawn at random, over all budgets.")
    ] = _COMPARISON.random_plans,
    ranking_plans: Annotated[
        int, typer.Option(min=1, help="For ranking: plans that SCIP selects at each budget.")
    ] = _COMPARISON.ranking_plans,
    pool_sizes: Annotated[
        str, typer.Option(help="For pools: ops per slot, separated by commas; all are added.")
    ] = ",".join(map(str, _COMPARISON.pool_sizes)),
    repeats: Annotated[
        int, typer.Option(min=1, help="For pools: random pools of each size.")
    ] = _COMPARISON.repeats,
    svg: Annotated[Path | None, typer.Option(help="Draw the ranking.", metavar="FILE.svg")] = None,
    json: Json = False,
) -> None:
    """Compares ways of finding plans, predicted with measured losses, or pools, on your own model.

    The preparation is the same as that of a compilation, and is kept. So is all that is compared:
    the same command with --json shows it again at once.
    """
    check_svg(svg)
    if svg is not None and show != _RANKING:
        raise CommandError(f"--svg draws the ranking; add --show {_RANKING}, or leave it out")
    sizes = _sizes(pool_sizes)

    from rich.console import Console

    from lanac.comparison import Ranking, compare
    from lanac.comparison.preparing import check_table
    from lanac.report.comparison import record, show_comparison
    from lanac.report.console import ConsoleInstruments
    from lanac.report.ranking import draw_ranking

    check_table(show)
    console = Console(stderr=json, soft_wrap=not sys.stdout.isatty())
    teacher, given = preparing.load(model)
    compared = compare(
        teacher,
        table=show,
        methods=None if methods is None else separated(methods),
        budget=budget,
        settings=Settings(
            distill_samples=distill_samples,
            score_samples=score_samples,
            plans=plans,
            search_evaluations=search_evaluations,
            evaluate_images=evaluate_images,
            finetune_epochs=finetune_epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
        ),
        comparison=ComparisonSettings(
            search_images=search_images,
            finetune_samples=finetune_samples,
            random_plans=random_plans,
            ranking_plans=ranking_plans,
            pool_sizes=sizes,
            repeats=repeats,
        ),
        instruments=ConsoleInstruments(console),
        **given,
    )
    if svg is not None and isinstance(compared, Ranking):
        write_svg(svg, draw_ranking(compared))
    if json:
        typer.echo(record(compared))
    else:
        show_comparison(console, compared)
        if svg is not None:
            console.print(f"drawn in {svg}", highlight=False, markup=False)


def _sizes(text: str) -> tuple[int, ...]:
    """Reads `--pool-sizes`."""
    parts = [part for part in separated([text]) if part != "all"]
    for part in parts:
        if not part.isdecimal():
            raise CommandError(
                f"--pool-sizes {text!r}: expected whole numbers separated by commas, such as 2,5,10; "
                f"got {part!r}"
            )
    return tuple(dict.fromkeys(map(int, parts)))
