"""The graph of a program as boxes and edges: slots, what is left out between them, ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from lanac.ir import Program, Slot, TensorSpec
from lanac.report.describe import dimensions, kind_of, layers_of

LEFT_OUT, INPUT, OUTPUT = "left out", "input", "output"
"""Kinds of boxes beside the kinds of slots."""

_FEW = 3


@dataclass(frozen=True)
class Box:
    """Nodes that are drawn as one.

    Attributes:
        kind: a kind of slot, `left out`, `input` or `output`.
        title: the slot's name, or what the nodes compute.
        text: the layers, or why the nodes are left out.
        nodes: names of its graph nodes, in graph order.
        slot: None for what is no slot.
    """

    kind: str
    title: str
    text: str
    nodes: tuple[str, ...]
    slot: Slot | None = None


@dataclass(frozen=True)
class Edge:
    """Tensors that go from one box to a later one.

    Attributes:
        source: index of a box.
        target: index of a box; larger than `source`.
        shape: without the batch, such as `64x56x56`.
    """

    source: int
    target: int
    shape: str


def graph_of(program: Program) -> tuple[list[Box], list[Edge]]:
    """Boxes in the order of the graph, and the edges between them.

    Nodes outside the slots are joined where they stand next to each other in the graph. What
    carries no tensor (shapes, numbers) is not shown.
    """
    places = {name: place for place, name in enumerate(program.nodes)}
    boxes = [*_slots(program), *_ends(program), *_runs(program)]
    boxes.sort(key=lambda box: places[box.nodes[-1]])
    owner = {name: index for index, box in enumerate(boxes) for name in box.nodes}
    shapes: dict[tuple[int, int], list[str]] = {}
    for node in program.teacher.graph.nodes:
        for source in node.all_input_nodes:
            ends = owner.get(source.name), owner.get(node.name)
            if ends[0] is None or ends[1] is None or ends[0] == ends[1]:
                continue
            spec = program.specs.get(source.name)
            text = dimensions(spec) if isinstance(spec, TensorSpec) else "several"
            found = shapes.setdefault((ends[0], ends[1]), [])
            if text not in found:
                found.append(text)
    return boxes, [Edge(*ends, " + ".join(texts)) for ends, texts in sorted(shapes.items())]


def _slots(program: Program) -> Iterator[Box]:
    for slot in program.slots:
        kind, text = kind_of(program, slot.nodes), layers_of(program, slot.nodes)
        yield Box(kind, slot.name, text, slot.nodes, slot)


def _ends(program: Program) -> Iterator[Box]:
    for node in program.teacher.graph.nodes:
        if node.op == "placeholder" and node.users:
            yield Box(INPUT, node.name, "", (node.name,))
        elif node.op == "output":
            yield Box(OUTPUT, "output", "", (node.name,))


def _runs(program: Program) -> Iterator[Box]:
    """Nodes outside the slots, joined where no node of a slot stands between them."""
    inside = {name for slot in program.slots for name in slot.nodes}
    reasons = {name: part.reason for part in program.left_out for name in part.nodes}
    run: list[fx.Node] = []
    for node in program.teacher.graph.nodes:
        if node.name in inside or node.op in ("placeholder", "output"):
            if run:
                yield _run(program, run, reasons)
            run = []
        elif _carries_tensors(program, node):
            run.append(node)
    if run:
        yield _run(program, run, reasons)


def _run(program: Program, run: list[fx.Node], reasons: dict[str, str]) -> Box:
    names = tuple(node.name for node in run)
    computed = [node for node in run if node.op != "get_attr"]
    title = f"{len(computed)} operations"
    if len(computed) <= _FEW:
        title = ", ".join(_operation(program, node) for node in computed) or "constant"
    known = dict.fromkeys(reasons[name] for name in names if name in reasons)
    return Box(LEFT_OUT, title, "; ".join(known), names)


def _operation(program: Program, node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return str(getattr(node.target, "__name__", node.target))


def _carries_tensors(program: Program, node: fx.Node) -> bool:
    """Whether a node gives a tensor, or a tuple from which one is taken."""
    if node.name in program.specs:
        return True
    return any(
        user.name in program.specs and _operation(program, user) == "getitem" for user in node.users
    )
