"""`--anchor MODEL=MS`: networks that were measured on a target that is not here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lanac.errors import CommandError

if TYPE_CHECKING:
    from lanac.targets.predicted import Anchor, Prediction

_ANCHOR = re.compile(r"(?P<model>.+)=\s*(?P<ms>\d+(\.\d*)?|\.\d+)\s*(ms)?")


def parse_anchors(texts: Sequence[str] | None) -> dict[str, float]:
    """Reads `MODEL=12.3ms`: milliseconds by model.

    Raises:
        CommandError: malformed, not above zero, or a model given twice.
    """
    anchors: dict[str, float] = {}
    for text in texts or ():
        match = _ANCHOR.fullmatch(text.strip())
        if match is None or float(match["ms"]) <= 0:
            raise CommandError(
                f"--anchor {text!r} is malformed; expected a network and its latency on the target "
                "in milliseconds for the whole batch, such as timm:resnet50=12.3ms"
            )
        model = match["model"].strip()
        if anchors.get(model, float(match["ms"])) != float(match["ms"]):
            raise CommandError(f"--anchor gives {model!r} twice, with different latencies")
        anchors[model] = float(match["ms"])
    return anchors


def load_anchors(measured: dict[str, float], target: str) -> tuple[Anchor, ...]:
    """The networks' predictions beside their measurements.

    Raises:
        LanacError: no such network, or the target cannot be predicted.
    """
    from lanac.targets.predicted import Anchor

    return tuple(Anchor(name, predict_source(name, target), ms) for name, ms in measured.items())


def predict_source(model: str, target: str, size: tuple[int, ...] | None = None) -> Prediction:
    """The predicted latency of a model.py, timm:NAME or torchvision:NAME."""
    from lanac.frontend.sources import load_source_to_inspect
    from lanac.predicting import predict

    source = load_source_to_inspect(model, size, False)
    return predict(
        source.model,
        example_inputs=source.example_inputs,
        train_data=source.train_data,
        target=target,
    )
