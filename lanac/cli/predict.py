"""`lanac predict MODEL ...`: what latency networks would have on a device that is not here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lanac.cli.anchors import parse_anchors, predict_source
from lanac.cli.options import Anchors, InputSize, Json

_WIDE = 120
"""Columns of the table where the output is no terminal."""


def predict_models(
    models: Annotated[
        list[str],
        typer.Argument(
            help="model.py, timm:NAME or torchvision:NAME; with several, their ratios are given too.",
            metavar="MODEL...",
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            help="DEVICE[:RUNTIME][:PRECISION][:bN][:tN], such as v100:tensorrt:fp16:b128.",
        ),
    ],
    anchor: Anchors = None,
    input_size: InputSize = None,
    json: Json = False,
) -> None:
    """Predicts latencies on a device that is not here, with their uncertainty.

    Nothing is run: the kernels are listed, and a model of the device says what they take. What it
    gives is no measurement.
    """
    measured = parse_anchors(anchor)

    from rich.console import Console

    from lanac.frontend.sources import parse_size
    from lanac.report.prediction import record, show_predictions
    from lanac.targets import parse_target
    from lanac.targets.predicted import Anchor, calibrate, way_of

    errors = way_of(parse_target(target)).errors
    size = parse_size(input_size) if input_size is not None else None
    names = dict.fromkeys([*models, *measured])
    found = {name: predict_source(name, target, size) for name in names}
    shown = {name: found[name] for name in models}
    if measured:
        anchors = [Anchor(name, found[name], ms) for name, ms in measured.items()]
        calibration = calibrate(anchors, errors)
        shown = {name: calibration.apply(prediction) for name, prediction in shown.items()}
    if json:
        typer.echo(record(shown, measured, errors))
        return
    piped = not sys.stdout.isatty()
    console = Console(soft_wrap=piped, width=_WIDE if piped else None)
    show_predictions(console, shown, measured, errors)
