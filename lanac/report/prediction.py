"""Predicted latencies for people, as a table, and for programs, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lanac.targets.predicted import Prediction, ratio_spread
from lanac.targets.predicted.prediction import COVERAGE, SIGMAS
from lanac.version import __version__

SCHEMA = 1
"""Version of the JSON; it grows when a key changes its meaning or goes away."""


def show_predictions(
    console: Console,
    predictions: Mapping[str, Prediction],
    measured: Mapping[str, float],
    errors: Mapping[str, float],
) -> None:
    """A row per network: predicted latency, its interval, and the ratio to the first one.

    Args:
        console: to print on.
        predictions: by network, for one target.
        measured: the anchors, milliseconds by network.
        errors: standard deviations by kernel class.
    """
    first = next(iter(predictions.values()))
    table = Table(
        title=f"PREDICTED, not measured: {first.target}", title_justify="left", box=None,
        pad_edge=False, title_style="bold",
    )  # fmt: skip
    table.add_column("network", overflow="fold")
    for name in ("predicted ms", f"{100 * COVERAGE:.0f} % interval", "samples/s", "kernels"):
        table.add_column(name, justify="right")
    if len(predictions) > 1:
        table.add_column("ratio to the first", justify="right")
    for name, prediction in predictions.items():
        row = [
            escape(name), _ms(prediction.latency_ms),
            f"{_ms(prediction.low_ms)} to {_ms(prediction.high_ms)}",
            _ms(1000 * prediction.target.batch / prediction.latency_ms), str(prediction.kernels),
        ]  # fmt: skip
        if len(predictions) > 1:
            row.append(_ratio(first, prediction, errors))
        table.add_row(*row)
    console.print(table)
    for line in explanations(first, measured):
        console.print(f"[dim]{escape(line)}[/]", highlight=False)


def explanations(prediction: Prediction, measured: Mapping[str, float]) -> list[str]:
    """What the figures rest on, a line each."""
    lines = [
        "no network was run; latency is per batch of "
        f"{prediction.target.batch}, the device alone, without loading data",
        f"rests on: {prediction.evidence}",
    ]
    if measured:
        anchors = ", ".join(f"{name} = {ms:g} ms" for name, ms in measured.items())
        lines.append(f"brought to the scale of what was measured: {anchors}")
    else:
        lines.append(
            "ratios are more certain than latencies; one measured network (--anchor MODEL=MS) "
            "narrows the interval"
        )
    return lines


def record(
    predictions: Mapping[str, Prediction],
    measured: Mapping[str, float],
    errors: Mapping[str, float],
) -> str:
    """The same as JSON."""
    first = next(iter(predictions.values()))
    networks = []
    for name, prediction in predictions.items():
        entry: dict[str, Any] = {
            "model": name,
            "how": "predicted",
            "latency_ms": _rounded(prediction.latency_ms),
            "low_ms": _rounded(prediction.low_ms),
            "high_ms": _rounded(prediction.high_ms),
            "kernels": prediction.kernels,
            "latency_ms_by_class": {
                kind: _rounded(ms) for kind, ms in sorted(prediction.cost.by_class.items())
            },
            "ratio_to_first": _rounded(prediction.latency_ms / first.latency_ms),
            "ratio_error": _rounded(_ratio_error(first, prediction, errors)),
        }
        networks.append(entry)
    return json.dumps(
        {
            "schema": SCHEMA,
            "lanac": __version__,
            "target": str(first.target),
            "how": "predicted",
            "coverage": COVERAGE,
            "evidence": first.evidence,
            "anchors_ms": dict(measured),
            "networks": networks,
        },
        indent=1,
    )


def _ratio(first: Prediction, prediction: Prediction, errors: Mapping[str, float]) -> str:
    if prediction is first:
        return "1"
    error = _ratio_error(first, prediction, errors)
    ratio = prediction.latency_ms / first.latency_ms
    return f"predicted {ratio:.3g}x, +-{100 * error:.0f} %"


def _ratio_error(first: Prediction, prediction: Prediction, errors: Mapping[str, float]) -> float:
    return math.expm1(SIGMAS * ratio_spread(first, prediction, errors))


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
