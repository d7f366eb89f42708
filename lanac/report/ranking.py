"""The picture of a ranking: predicted against measured losses, and what each budget's plans give."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from html import escape

from lanac.comparison import BudgetRanking, Judged, Ranking
from lanac.report.drawing import INK, SOFT, opening, paper, rule, text_at
from lanac.targets import TITLES

_HEIGHT, _TOP, _BOTTOM, _LEFT, _PANEL, _GAP, _RIGHT = 480, 96, 60, 70, 420, 84, 26
_WIDTH = _LEFT + 2 * _PANEL + _GAP + _RIGHT
_DRAWN = ("#7f1d1d", "#c2410c", "#ca8a04", "#4d7c0f", "#0f766e")
"""Colours of the budgets, the smallest first."""
_SELECTED = "#1d4ed8"
_SHAPES = {
    1: "M-5 5 L0 -5 L5 5 z",
    10: "M-4.5 -4.5 H4.5 V4.5 H-4.5 z",
    100: "M0 -6 L6 0 L0 6 L-6 0 z",
}
"""Marks of the best of K plans."""

Scale = Callable[[float], float]


def draw_ranking(ranking: Ranking) -> str:
    """The paper's Figure 4, a and b, as SVG; both axes of losses are logarithmic."""
    measured = _finite([item.loss for item in _plans(ranking)])
    y = _log_scale(measured, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        opening(_WIDTH, _HEIGHT),
        paper(_WIDTH, _HEIGHT),
        text_at(_LEFT, 34, "Does the sum of scores order whole networks?", 17, INK),
        text_at(_LEFT, 56, _caption(ranking), 12, SOFT),
        *_scatter(ranking, measured, y),
        *_boxes(ranking, measured, y),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _caption(ranking: Ranking) -> str:
    drawn = sum(len(budget.drawn) for budget in ranking.budgets)
    selected = sum(len(budget.selected) for budget in ranking.budgets)
    return (
        f"Kendall's tau {ranking.tau_drawn:.3f} over {drawn} drawn plans, "
        f"{ranking.tau_selected:.3f} over {selected} selected ones; losses before finetuning, on "
        f"{ranking.images} training samples"
    )


def _plans(ranking: Ranking) -> list[Judged]:
    return [item for budget in ranking.budgets for item in (*budget.drawn, *budget.selected)]


def _predicted(ranking: Ranking, item: Judged) -> float:
    return ranking.teacher_loss + item.plan.score


def _scatter(ranking: Ranking, measured: Sequence[float], y: Scale) -> list[str]:
    predicted = _finite([_predicted(ranking, item) for item in _plans(ranking)])
    x = _log_scale(predicted, _LEFT, _LEFT + _PANEL)
    parts = [
        *_measured_axis(measured, y, _LEFT),
        text_at(_LEFT, _TOP - 12, "measured loss", 12, SOFT),
        text_at(_LEFT + _PANEL, _HEIGHT - 16, "predicted loss", 12, SOFT, anchor="end"),
    ]
    for value in _log_ticks(predicted):
        parts.append(rule(x(value), _TOP, x(value), _HEIGHT - _BOTTOM))
        parts.append(
            text_at(x(value), _HEIGHT - _BOTTOM + 18, f"{value:g}", 12, SOFT, anchor="middle")
        )
    for budget, colour in zip(ranking.budgets, _DRAWN, strict=False):
        parts += [_dot(ranking, item, x, y, colour, 2.6) for item in budget.drawn]
    for budget in ranking.budgets:
        parts += [_dot(ranking, item, x, y, _SELECTED, 2.0) for item in budget.selected]
    # Where no plan is: predicted to be bad, and good.
    keys = [
        (colour, f"drawn at {budget.ratio:.2f}x")
        for budget, colour in zip(ranking.budgets, _DRAWN, strict=False)
    ]
    keys.append((_SELECTED, "selected by SCIP"))
    for number, (colour, text) in enumerate(reversed(keys)):
        parts += _key(_LEFT + _PANEL - 120, _HEIGHT - _BOTTOM - 12 - 16 * number, colour, text)
    return parts


def _boxes(ranking: Ranking, measured: Sequence[float], y: Scale) -> list[str]:
    left = _LEFT + _PANEL + _GAP
    parts = [
        *_measured_axis(measured, y, left),
        text_at(left, _TOP - 12, "measured loss", 12, SOFT),
        text_at(
            left + _PANEL, _HEIGHT - 16, f"budget, share of the teacher's {TITLES[ranking.resource]}",
            12, SOFT, anchor="end",
        ),
    ]  # fmt: skip
    if ranking.teacher_loss > 0:
        height = y(ranking.teacher_loss)
        parts.append(rule(left, height, left + _PANEL, height, SOFT))
        parts.append(text_at(left + 4, height + 13, "teacher", 11, SOFT))
    step = _PANEL / len(ranking.budgets)
    for number, (budget, colour) in enumerate(zip(ranking.budgets, _DRAWN, strict=False)):
        middle = left + (number + 0.5) * step
        parts.append(
            text_at(
                middle, _HEIGHT - _BOTTOM + 18, f"{budget.ratio:.2f}x", 12, SOFT, anchor="middle"
            )
        )
        parts += _box(budget, middle - 16, y, colour)
        for place, (count, loss) in enumerate(budget.best.items()):
            mark = _mark(middle + 8 + 13 * place, y(loss), count, f"best of K={count}: {loss:.4f}")
            parts.append(mark)
    x = left + 110
    for count in sorted({count for budget in ranking.budgets for count in budget.best}):
        parts.append(_mark(x, _TOP - 16, count, f"K={count}"))
        parts.append(text_at(x + 10, _TOP - 12, f"best of K={count}", 12, INK))
        x += 110
    return parts


def _box(budget: BudgetRanking, x: float, y: Scale, colour: str) -> list[str]:
    """Quartiles and extremes of the drawn plans."""
    losses = sorted(_finite([item.loss for item in budget.drawn]))
    if len(losses) < 2:
        return []
    low, middle, high = statistics.quantiles(losses, n=4, method="inclusive")
    title = f"{len(losses)} drawn plans: {losses[0]:.4f} to {losses[-1]:.4f}, median {middle:.4f}"
    return [
        f"<g><title>{escape(title)}</title>",
        rule(x, y(losses[0]), x, y(losses[-1]), colour),
        f'<rect x="{x - 11:.1f}" y="{y(high):.1f}" width="22" height="{y(low) - y(high):.1f}" '
        f'fill="#ffffff" stroke="{colour}" stroke-width="1.5"/>',
        rule(x - 11, y(middle), x + 11, y(middle), colour),
        *(rule(x - 6, y(end), x + 6, y(end), colour) for end in (losses[0], losses[-1])),
        "</g>",
    ]


def _mark(x: float, y: float, count: int, title: str) -> str:
    return (
        f'<path d="{_SHAPES[count]}" transform="translate({x:.1f} {y:.1f})" fill="{_SELECTED}" '
        f'stroke="#ffffff" stroke-width="0.8"><title>{escape(title)}</title></path>'
    )


def _dot(ranking: Ranking, item: Judged, x: Scale, y: Scale, colour: str, radius: float) -> str:
    predicted = _predicted(ranking, item)
    if not (0 < item.loss < math.inf and predicted > 0):
        return ""  # nothing that a logarithmic axis could show
    return (
        f'<circle cx="{x(predicted):.1f}" cy="{y(item.loss):.1f}" r="{radius:g}" fill="{colour}" '
        'fill-opacity="0.55"/>'
    )


def _key(x: float, y: float, colour: str, text: str) -> list[str]:
    dot = f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="4" fill="{colour}"/>'
    return [dot, text_at(x + 10, y, text, 12, INK)]


def _measured_axis(measured: Sequence[float], y: Scale, left: float) -> list[str]:
    parts = []
    for value in _log_ticks(measured):
        parts.append(rule(left, y(value), left + _PANEL, y(value)))
        parts.append(text_at(left - 8, y(value) + 4, f"{value:g}", 12, SOFT, anchor="end"))
    return parts


def _finite(values: Sequence[float]) -> list[float]:
    """What a logarithmic axis can show; something, where that is nothing."""
    return [value for value in values if 0 < value < math.inf] or [1.0]


def _log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = math.log(min(values)), math.log(max(values))
    margin = 0.04 * (high - low) or 0.1
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return start + (math.log(value) - low) / (high - low) * (end - start)

    return place


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten between two, or the powers alone where that were too many."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    many = high / low > 500
    ticks = [factor * 10.0**power for power in powers for factor in ((1,) if many else (1, 2, 5))]
    return [round(tick, 12) for tick in ticks if low <= tick <= high]
