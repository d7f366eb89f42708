"""A front of budgets for people, as a table and a plot, and for programs, as JSON."""

from __future__ import annotations

import json
import math

from rich.console import Console
from rich.table import Table

from lanac.fronts import Front, FrontPoint
from lanac.ir import TEACHER, Plan
from lanac.report.drawing import INK, SOFT, opening, paper, rule, text_at
from lanac.targets import TITLES, format_cost
from lanac.version import __version__

SCHEMA = 1
"""Version of the JSON; it grows when a key changes its meaning or goes away."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 420, 86, 60, 24, 56
_LINE = "#3b6fb6"


def show_front(console: Console, front: Front) -> None:
    """The best plan at each budget."""
    title = TITLES[front.resource]
    count = len(front.prepared.need("program").slots)
    table = Table(title=f"the best plan at each budget of {title} (predicted)", box=None)
    for name in ("budget", title, "loss", "changed", "1 % more saves"):
        table.add_column(name, justify="right")
    for point in front.points:
        table.add_row(*_row(front, point, count))
    console.print(table)
    console.print(
        "[dim]loss: predicted change of the loss, a sum of scores of single changes; the more slots "
        "change, the less it says. Finetuning wins most of it back. 1 % more saves: what one more "
        "percent of the teacher's cost is worth at this budget[/]",
        highlight=False,
    )


def _row(front: Front, point: FrontPoint, slots: int) -> tuple[str, ...]:
    budget = f"{point.ratio:.3f}x"
    if point.plan is None:
        return budget, "no plan found in time", "", "", ""
    cost = format_cost(front.resource, point.plan.costs[front.resource])
    price = "" if point.price is None else f"{point.price:.4f}"
    return budget, cost, f"{point.plan.score:+.4f}", f"{_changed(point.plan)} of {slots}", price


def _changed(plan: Plan) -> int:
    return sum(op != TEACHER for op in plan.ops)


def record(front: Front) -> str:
    """The front as JSON."""
    names = [slot.name for slot in front.prepared.need("program").slots]
    points = [
        {
            "limit": point.limit,
            "ratio": point.ratio,
            "price": point.price,
            "plan": None
            if point.plan is None
            else {
                "score": point.plan.score,
                "gap": point.plan.gap,
                "costs": dict(point.plan.costs),
                "ops": dict(zip(names, map(str, point.plan.ops), strict=True)),
            },
        }
        for point in front.points
    ]
    teacher = dict(front.prepared.need("costs").teacher)
    value = {
        "schema": SCHEMA,
        "lanac": __version__,
        "target": str(front.prepared.target),
        "resource": front.resource,
        "teacher": teacher,
        "predicted": True,
        "points": points,
    }
    return json.dumps(value, indent=2)


def draw_front(front: Front) -> str:
    """Predicted loss over the budget, as SVG."""
    points = [(p.ratio, p.plan.score) for p in front.points if p.plan is not None]
    low, high = min(0.0, *(y for _, y in points)), max(0.0, *(y for _, y in points))
    span = (high - low) or 1.0
    low, high = low - 0.05 * span, high + 0.05 * span
    left, right = min(x for x, _ in points), max(1.0, *(x for x, _ in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1.0)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        opening(_WIDTH, _HEIGHT),
        paper(_WIDTH, _HEIGHT),
        text_at(_LEFT, 32, "The best plan at each budget (predicted)", 17, INK),
        text_at(_LEFT, _HEIGHT - 14, f"{TITLES[front.resource]}, share of the teacher's", 12, SOFT),
        text_at(_LEFT, 50, "predicted change of the loss", 12, SOFT),
    ]
    for value in _ticks(left, right):
        x, _ = place(value, low)
        parts.append(rule(x, _TOP, x, _HEIGHT - _BOTTOM))
        parts.append(text_at(x, _HEIGHT - _BOTTOM + 18, f"{value:g}x", 12, SOFT, anchor="middle"))
    for value in _ticks(low, high):
        _, y = place(left, value)
        parts.append(rule(_LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(text_at(_LEFT - 8, y + 4, f"{value:g}", 12, SOFT, anchor="end"))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    for ratio, score in points:
        x, y = place(ratio, score)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_LINE}">'
            f"<title>{ratio:.3f}x: {score:+.4f}</title></circle>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    """At most six round values between two."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(f * power for f in (0.2, 0.5, 1.0, 2.0) if (high - low) / (f * power) <= 6)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(place * step, 12) for place in range(first, last + 1)]
