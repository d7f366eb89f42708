"""`lanac predict MODEL ...`: what latency networks would have on a device that is not here."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lanac.errors import CommandError

if TYPE_CHECKING:
    from lanac.targets.predicted import Prediction

_WIDE = 120
"""Columns of the table where the output is no terminal."""

_ANCHOR = re.compile(r"(?P<model>.+)=\s*(?P<ms>\d+(\.\d*)?|\.\d+)\s*(ms)?")


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
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            help="A network that was measured on the target, in ms for the whole batch, such as "
            "timm:resnet50=12.3ms. One or a few make predictions much better.",
            metavar="MODEL=MS",
        ),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            help="Size of one input, such as 3x224x224; needed where neither the file nor the "
            "package gives inputs.",
            metavar="CxHxW",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predicts latencies on a device that is not here, with their uncertainty.

    Nothing is run: the kernels are listed, and a model of the device says what they take. What it
    gives is no measurement.
    """
    measured = dict(_parse_anchor(text) for text in anchor or ())

    from rich.console import Console

    from lanac.frontend.sources import load_source_to_inspect, parse_size
    from lanac.predicting import predict
    from lanac.report.prediction import record, show_predictions
    from lanac.targets import parse_target
    from lanac.targets.predicted import Anchor, calibrate, way_of

    errors = way_of(parse_target(target)).errors
    size = parse_size(input_size) if input_size is not None else None
    found: dict[str, Prediction] = {}
    for name in dict.fromkeys([*models, *measured]):
        source = load_source_to_inspect(name, size, False)
        found[name] = predict(
            source.model,
            example_inputs=source.example_inputs,
            train_data=source.train_data,
            target=target,
        )
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


def _parse_anchor(text: str) -> tuple[str, float]:
    """Reads `MODEL=12.3ms`.

    Raises:
        CommandError: malformed, or not above zero.
    """
    match = _ANCHOR.fullmatch(text.strip())
    if match is None or float(match["ms"]) <= 0:
        raise CommandError(
            f"--anchor {text!r} is malformed; expected a network and its latency on the target in "
            "milliseconds for the whole batch, such as timm:resnet50=12.3ms"
        )
    return match["model"].strip(), float(match["ms"])
