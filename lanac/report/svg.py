"""A picture of a network and its slots: one box each, top down, with its share of the cost.

Neighbours are joined by arrows, everything further by arcs on the right. On the left stands what
each slot takes of the whole. The picture is plain SVG, the same for the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lanac.inspection import Inspection
from lanac.report.describe import ATTENTION, CONV, HEAD, MLP, OTHER
from lanac.report.drawing import INK, SOFT, opening, paper, text_at
from lanac.report.figures import NetworkFigures, figures_of
from lanac.report.graph import INPUT, LEFT_OUT, OUTPUT, Box, Edge, graph_of
from lanac.targets import FLOPS, LATENCY, PARAMS, format_cost

_COLOURS = {
    CONV: ("#3b6fb6", "#eaf1fb"),
    ATTENTION: ("#8a5bc4", "#f3ecfb"),
    MLP: ("#2a9187", "#e6f5f3"),
    HEAD: ("#d07a1f", "#fdf1e3"),
    OTHER: ("#64748b", "#eef1f5"),
    LEFT_OUT: ("#a3abb8", "#f6f7f9"),
    INPUT: ("#475569", "#ffffff"),
    OUTPUT: ("#475569", "#ffffff"),
}
"""(line, fill) of a box by its kind."""

_LINE, _ARC = "#94a3b8", "#7c8db5"
_WIDTH, _HEIGHT, _END_WIDTH, _SMALL_HEIGHT, _GAP = 430, 46, 200, 30, 30
_MARGIN, _TOP, _BARS, _LANE = 28, 118, 190, 22
_LETTER = 6.4
"""About the width of a letter of the small text in pixels."""


@dataclass(frozen=True)
class Placed:
    """A box with its place in pixels; `x`, `y` are its left upper corner."""

    box: Box
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def right(self) -> float:
        return self.x + self.width


def draw(inspection: Inspection) -> str:
    """The picture as the text of an SVG file."""
    boxes, edges = graph_of(inspection.program)
    figures = figures_of(inspection)
    placed = _place(boxes)
    centre = placed[0].x + placed[0].width / 2
    far = [edge for edge in edges if edge.target > edge.source + 1]
    lanes = arc_lanes(far)
    width = _MARGIN + _BARS + _WIDTH + (max(lanes, default=-1) + 2) * _LANE + 2 * _MARGIN
    width = max(width, 2 * _MARGIN + _BARS + _WIDTH + 60)
    height = placed[-1].bottom + _MARGIN
    parts = [
        opening(width, height),
        f"<title>{escape(inspection.name)}: its slots, as lanac sees them</title>",
        f"<defs>{_marker('tip', _LINE)}{_marker('arc', _ARC)}</defs>",
        paper(width, height),
        *_heading(inspection, figures, boxes),
    ]
    for edge in edges:
        if edge.target == edge.source + 1:
            parts += _arrow(placed[edge.source], placed[edge.target], centre, edge.shape)
    parts += _arcs(placed, far, lanes)
    for item in placed:
        parts += _box(item, figures)
    parts += _bars(placed, figures)
    return "\n".join([*parts, "</svg>", ""])


def arc_lanes(edges: Sequence[Edge]) -> list[int]:
    """A lane per edge, 0 next to the boxes, so that no two arcs lie on each other; short ones
    inside."""
    lanes = [0] * len(edges)
    taken: list[list[Edge]] = []
    order = sorted(range(len(edges)), key=lambda i: (edges[i].target - edges[i].source, i))
    for index in order:
        edge, lane = edges[index], 0
        while lane < len(taken) and any(_overlap(edge, other) for other in taken[lane]):
            lane += 1
        if lane == len(taken):
            taken.append([])
        taken[lane].append(edge)
        lanes[index] = lane
    return lanes


def _overlap(first: Edge, second: Edge) -> bool:
    return first.source < second.target and second.source < first.target


def _place(boxes: Sequence[Box]) -> list[Placed]:
    placed, y = [], float(_TOP)
    for box in boxes:
        width = _END_WIDTH if box.kind in (INPUT, OUTPUT) else _WIDTH
        height = _SMALL_HEIGHT if box.kind in (INPUT, OUTPUT, LEFT_OUT) else _HEIGHT
        x = _MARGIN + _BARS + (_WIDTH - width) / 2
        placed.append(Placed(box, x, y, width, height))
        y += height + _GAP
    return placed


def _heading(inspection: Inspection, figures: NetworkFigures, boxes: Sequence[Box]) -> list[str]:
    whole = [format_cost(name, figures.total[name]) for name in (PARAMS, FLOPS)]
    if LATENCY in figures.total:
        whole.append(f"{format_cost(LATENCY, figures.total[LATENCY])} on {inspection.target}")
    inside = sum(slot.costs[PARAMS] for slot in figures.slots)
    covered = 100 * inside / max(figures.total[PARAMS], 1)
    lines = [
        text_at(_MARGIN, 40, inspection.name, 20, INK, weight=600),
        text_at(_MARGIN, 62, " · ".join(whole), 12.5, SOFT),
    ]
    x = float(_MARGIN)
    kinds = dict.fromkeys(box.kind for box in boxes if box.kind not in (INPUT, OUTPUT))
    for kind in [kind for kind in _COLOURS if kind in kinds]:
        line, fill = _COLOURS[kind]
        lines.append(
            f'<rect x="{x:g}" y="76" width="12" height="12" rx="3" fill="{fill}" stroke="{line}"/>'
        )
        lines.append(text_at(x + 18, 86, kind, 12, SOFT))
        x += 18 + _LETTER * len(kind) + 20
    lines.append(
        text_at(x, 86, f"{len(figures.slots)} slots hold {covered:.1f} % of the params", 12, SOFT)
    )
    return lines


def _box(item: Placed, figures: NetworkFigures) -> list[str]:
    box = item.box
    line, fill = _COLOURS[box.kind]
    shape = f'x="{item.x:g}" y="{item.y:g}" width="{item.width:g}" height="{item.height:g}"'
    if box.kind in (INPUT, OUTPUT):
        return [
            f'<rect {shape} rx="{item.height / 2:g}" fill="{fill}" stroke="{line}"/>',
            text_at(
                item.x + item.width / 2,
                item.middle + 4,
                _short(box.title, 26),
                12,
                INK,
                anchor="middle",
            ),
        ]
    if box.kind == LEFT_OUT:
        title = _short(box.title, 32)
        return [
            f"<g><title>{escape(', '.join(box.nodes))}: {escape(box.text)}</title>",
            f'<rect {shape} rx="8" fill="{fill}" stroke="{line}" stroke-dasharray="4 3"/>',
            text_at(item.x + 16, item.middle + 4, title, 12, SOFT),
            text_at(
                item.right - 14, item.middle + 4, _short(f"left out: {box.text}", 62 - len(title)), 11, SOFT,
                anchor="end",
            ),
            "</g>",
        ]  # fmt: skip
    costs = figures.of(box.title).costs
    numbers = f"{format_cost(PARAMS, costs[PARAMS])} · {format_cost(FLOPS, costs[FLOPS])}"
    return [
        f"<g><title>{escape(box.title)}: {escape(box.text)}</title>",
        f'<rect {shape} rx="8" fill="{fill}" stroke="{line}"/>',
        f'<rect x="{item.x:g}" y="{item.y + 8:g}" width="4" height="{item.height - 16:g}" '
        f'fill="{line}"/>',
        text_at(item.x + 16, item.y + 19, _short(box.title, 34), 13, INK, weight=600),
        text_at(item.right - 14, item.y + 19, numbers, 11, SOFT, anchor="end"),
        text_at(item.x + 16, item.y + 36, _short(box.text, 62), 11, SOFT),
        "</g>",
    ]


def _bars(placed: Sequence[Placed], figures: NetworkFigures) -> list[str]:
    """What each slot takes of the whole, to the left of its box; the largest fills the room."""
    largest = max([slot.share for slot in figures.slots], default=0)
    right = _MARGIN + _BARS - 16
    lines = [text_at(right, _TOP - 8, figures.share_title, 11, SOFT, anchor="end")]
    for item in placed:
        if item.box.slot is None:
            continue
        slot = figures.of(item.box.title)
        length = 120 * slot.share / largest if largest else 0
        line, _ = _COLOURS[item.box.kind]
        lines.append(
            f'<rect x="{right - length:.1f}" y="{item.middle - 7:g}" width="{length:.1f}" '
            f'height="14" rx="2" fill="{line}" fill-opacity="0.75"/>'
        )
        lines.append(
            text_at(
                right - length - 6, item.middle + 4, f"{100 * slot.share:.1f} %", 11, INK,
                anchor="end",
            )
        )  # fmt: skip
    return lines


def _arrow(above: Placed, below: Placed, x: float, shape: str) -> list[str]:
    return [
        f'<path d="M{x:g} {above.bottom:g} V{below.y - 1:g}" stroke="{_LINE}" stroke-width="1.5" '
        'fill="none" marker-end="url(#tip)"/>',
        text_at(x + 10, (above.bottom + below.y) / 2 + 4, shape, 11, SOFT),
    ]


def _arcs(placed: Sequence[Placed], edges: Sequence[Edge], lanes: Sequence[int]) -> list[str]:
    """Arcs from the right side of a box to the right side of a later one."""
    base = _MARGIN + _BARS + _WIDTH
    lines, labels = [], []
    for edge, lane in zip(edges, lanes, strict=True):
        above, below = placed[edge.source], placed[edge.target]
        start = above.middle + _spread(edge, edges, above, leaving=True)
        end = below.middle + _spread(edge, edges, below, leaving=False)
        x, bend = base + (lane + 1) * _LANE, 10
        lines.append(
            f'<path d="M{above.right:g} {start:g} H{x - bend:g} Q{x:g} {start:g} {x:g} '
            f"{start + bend:g} V{end - bend:g} Q{x:g} {end:g} {x - bend:g} {end:g} "
            f'H{below.right + 1:g}" stroke="{_ARC}" stroke-width="1.5" fill="none" '
            'marker-end="url(#arc)"/>'
        )
        labels.append(
            f'<text x="{x + 4:g}" y="{start + 24:g}" font-size="10" fill="{_ARC}" stroke="#ffffff" '
            f'stroke-width="3" paint-order="stroke" transform="rotate(90 {x + 4:g} {start + 24:g})">'
            f"{escape(edge.shape)}</text>"
        )
    return lines + labels


def _spread(edge: Edge, edges: Sequence[Edge], item: Placed, leaving: bool) -> float:
    """Arcs that meet at one box touch it at different heights: entering above, leaving below."""
    same = [
        other
        for other in edges
        if (other.source == edge.source if leaving else other.target == edge.target)
    ]
    # The longest arc lies outside: it enters at the top and leaves at the bottom last.
    same.sort(key=lambda other: other.target - other.source, reverse=not leaving)
    place = (same.index(edge) + 1) / (len(same) + 1)
    room = item.height / 2 - 4
    return room * (1 - place) if leaving else -room * (1 - place)


def _marker(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0.5 L7.5 4 L0 7.5 z" fill="{colour}"/></marker>'
    )


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
