"""Partition: the teacher's graph is cut into slots, by data flow alone.

Nodes through which all data flows (dominators of the output over tensor edges) cut the graph into
a chain of segments with one entry and one exit. Segments are merged by what they compute, never by
class names; what remains and holds weights is a slot.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import networkx as nx
from torch import Tensor, nn

from lanac.errors import ProgramError
from lanac.frontend.tracing import Trace
from lanac.ir import LeftOut, Program, Slot, TensorSpec, node_parameters, shared_weights

_ENTRY, _EXIT = "<entry>", "<exit>"


@dataclass(frozen=True)
class Segment:
    """Nodes between two cuts.

    Attributes:
        entry: name of the node that feeds the segment.
        nodes: names of its nodes in graph order; the last is its exit.
    """

    entry: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class SlotOptions:
    """What becomes a slot.

    Attributes:
        granularity: `block`: a residual block is one slot; `layer`: a convolution or linear layer
            with its norm and activation is one.
        only: glob patterns of module paths; nothing else becomes a slot.
        skip: glob patterns of module paths that stay as they are.
    """

    granularity: str = "block"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


def partition(trace: Trace, options: SlotOptions = SlotOptions()) -> Program:
    """Cuts the traced teacher into slots.

    Args:
        trace: the traced teacher.
        options: what becomes a slot.

    Returns:
        The program; what is in no slot stands in `left_out` with its reason.

    Raises:
        ProgramError: nothing in the network can become a slot.
    """
    teacher = trace.module
    program = Program(teacher, (), trace.specs)
    facts = SegmentFacts(program)
    slots: list[Slot] = []
    left_out: list[LeftOut] = []
    for segment in merge_segments(cut_segments(program), facts):
        reason = _why_not_a_slot(program, segment, facts)
        if reason is None:
            slots.append(_slot(program, segment, facts, {slot.name for slot in slots}))
        else:
            left_out.append(LeftOut(segment.nodes, reason))
    left_out += _beside_the_chain(program, slots, left_out)
    program = _without_shared_weights(program.with_slots(tuple(slots), tuple(left_out)))
    if not program.slots:
        reasons = "; ".join(sorted({part.reason for part in program.left_out})) or "no layers"
        raise ProgramError(
            f"nothing in {type(teacher).__name__} can become a slot ({reasons}). lanac needs "
            "layers with weights that all data flows through."
        )
    return program


def cut_segments(program: Program) -> list[Segment]:
    """The chain of segments between the dominators of the output.

    Only tensor edges count: edges that carry shapes would hold the whole network together.
    """
    graph = _tensor_graph(program)
    dominators = nx.immediate_dominators(graph, _ENTRY)
    cuts = [_EXIT]
    while cuts[-1] != _ENTRY:
        cuts.append(dominators[cuts[-1]])
    cuts.reverse()
    order = {name: place for place, name in enumerate(program.nodes)}
    segments = []
    for entry, exit_ in itertools.pairwise(cuts):
        if entry == _ENTRY or exit_ == _EXIT:
            continue  # several inputs meet, or several outputs part: no single tensor enters
        inside = nx.descendants(graph, entry) & (nx.ancestors(graph, exit_) | {exit_})
        inside |= _private_sources(program, inside, fed=set(graph))
        segments.append(Segment(entry, tuple(sorted(inside, key=order.__getitem__))))
    return segments


def _tensor_graph(program: Program) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node in program.teacher.graph.nodes:
        if node.op == "placeholder":
            graph.add_edge(_ENTRY, node.name)
        for source in node.all_input_nodes:
            if source.name in program.specs:
                graph.add_edge(source.name, _EXIT if node.op == "output" else node.name)
    reachable = nx.descendants(graph, _ENTRY) | {_ENTRY}
    return graph.subgraph(reachable & (nx.ancestors(graph, _EXIT) | {_EXIT})).copy()


def _private_sources(program: Program, inside: set[str], fed: set[str]) -> set[str]:
    """Weights, constants and shapes that only these nodes use; `fed`: tensors made of the input."""
    found: set[str] = set()
    stack = [source for name in inside for source in program.nodes[name].all_input_nodes]
    while stack:
        node = stack.pop()
        known = inside | found
        if node.name in known or node.name in fed:
            continue
        if all(user.name in known for user in node.users):
            found.add(node.name)
            stack.extend(node.all_input_nodes)
    return found


class SegmentFacts:
    """What the merge rules ask of a segment; all of it from the graph."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def weights(self, segment: Segment) -> list[Tensor]:
        teacher, nodes = self._program.teacher, self._program.nodes
        return [value for name in segment.nodes for value in node_parameters(teacher, nodes[name])]

    def is_affine(self, segment: Segment) -> bool:
        """No weight couples channels: norms, scales, activations, pools."""
        return all(value.dim() <= 1 for value in self.weights(segment))

    def spec_in(self, segment: Segment) -> TensorSpec:
        return self._program.specs[segment.entry]

    def spec_out(self, segment: Segment) -> TensorSpec:
        return self._program.specs[segment.nodes[-1]]

    def removes_space(self, segment: Segment) -> bool:
        """Global pooling, flattening: what follows belongs to a head, not to a feature map."""
        before, after = self.spec_in(segment), self.spec_out(segment)
        if before.rank != after.rank:
            return True
        return set(after.spatial) == {1} and set(before.spatial) != {1}

    def is_gate(self, segment: Segment) -> bool:
        """Ends in a product with its own input: a squeeze-excite gate."""
        last = self._program.nodes[segment.nodes[-1]]
        is_product = getattr(last.target, "__name__", last.target) in ("mul", "mul_")
        return is_product and any(node.name == segment.entry for node in last.all_input_nodes)

    def convolutions(self, segment: Segment) -> list[nn.Conv2d]:
        modules = [
            self._program.teacher.get_submodule(str(node.target))
            for node in map(self._program.nodes.__getitem__, segment.nodes)
            if node.op == "call_module"
        ]
        return [module for module in modules if isinstance(module, nn.Conv2d)]

    def skips(self, segment: Segment) -> int:
        """How many nodes combine two tensors: sums of a residual block, products of a gate."""
        nodes = [self._program.nodes[name] for name in segment.nodes]
        tensors = [
            [source for source in node.all_input_nodes if source.name in self._program.specs]
            for node in nodes
        ]
        return sum(len(sources) > 1 for sources in tensors)

    def is_linear(self, segment: Segment) -> bool:
        """Ends in a convolution or a norm: no activation behind the last layer."""
        last = self._program.nodes[segment.nodes[-1]]
        return bool(node_parameters(self._program.teacher, last))


def merge_segments(segments: list[Segment], facts: SegmentFacts) -> list[Segment]:
    """Joins segments that belong together: norms and activations with their layer, a pooling head
    with its classifier, the three layers of an inverted residual without a skip."""
    merged: list[Segment] = []
    head: Segment | None = None
    for segment in segments:
        if head is not None:
            segment, head = _join(head, segment), None
        if facts.removes_space(segment) and facts.is_affine(segment):
            head = segment
        elif merged and (facts.is_affine(segment) or facts.is_gate(segment)):
            merged[-1] = _join(merged[-1], segment)
        elif not merged and facts.is_affine(segment):
            head = segment
        else:
            merged.append(segment)
    if head is not None:
        merged.append(head)
    return _merge_inverted_residuals(merged, facts)


def _join(first: Segment, second: Segment) -> Segment:
    return Segment(first.entry, first.nodes + second.nodes)


def _merge_inverted_residuals(segments: list[Segment], facts: SegmentFacts) -> list[Segment]:
    """[expanding][depthwise][linear 1x1], [depthwise][linear 1x1], [expanding kxk][linear 1x1]."""
    result: list[Segment] = []
    for segment in segments:
        result.append(segment)
        if not _is_single(segment, facts) or not _is_linear_1x1(segment, facts):
            continue
        before = [item for item in result[-3:-1] if _is_single(item, facts)]
        if not before or before[-1] is not result[-2]:
            continue
        if _is_depthwise(before[-1], facts):
            result[-2:] = [_join(before[-1], segment)]
            if len(before) == 2 and _expands(before[0], facts) and _is_pointwise(before[0], facts):
                result[-2:] = [_join(before[0], result[-1])]
        elif _expands(before[-1], facts) and not _is_pointwise(before[-1], facts):
            result[-2:] = [_join(before[-1], segment)]
    return result


def _is_single(segment: Segment, facts: SegmentFacts) -> bool:
    """One layer, perhaps with a squeeze-excite gate behind it (two small layers, one product)."""
    count = len(facts.convolutions(segment))
    return (count, facts.skips(segment)) in {(1, 0), (3, 1)}


def _is_pointwise(segment: Segment, facts: SegmentFacts) -> bool:
    main = facts.convolutions(segment)[0]
    return main.kernel_size == (1, 1) and main.groups == 1


def _is_linear_1x1(segment: Segment, facts: SegmentFacts) -> bool:
    return _is_pointwise(segment, facts) and facts.is_linear(segment)


def _is_depthwise(segment: Segment, facts: SegmentFacts) -> bool:
    main = facts.convolutions(segment)[0]
    return main.groups == main.in_channels > 1


def _expands(segment: Segment, facts: SegmentFacts) -> bool:
    main = facts.convolutions(segment)[0]
    return main.groups == 1 and main.out_channels > main.in_channels


def _why_not_a_slot(program: Program, segment: Segment, facts: SegmentFacts) -> str | None:
    if not facts.weights(segment):
        return "no weights"
    inside = set(segment.nodes)
    for name in segment.nodes:
        for source in program.nodes[name].all_input_nodes:
            if source.name not in inside and source.name != segment.entry:
                return f"{name} also reads {source.name} from outside"
        leaks = [user.name for user in program.nodes[name].users if user.name not in inside]
        if leaks and name != segment.nodes[-1]:
            return f"{leaks[0]} outside also reads {name}"
    before, after = facts.spec_in(segment), facts.spec_out(segment)
    if not (before.dtype.is_floating_point and after.dtype.is_floating_point):
        return "not floating point"
    if before.shape[:1] != after.shape[:1]:
        return "the batch dimension changes"
    return None


def _beside_the_chain(
    program: Program, slots: list[Slot], left_out: list[LeftOut]
) -> list[LeftOut]:
    """The nodes that compute something and are in no segment."""
    known = {name for slot in slots for name in slot.nodes}
    known |= {name for part in left_out for name in part.nodes}
    rest = tuple(
        node.name
        for node in program.nodes.values()
        if node.op not in ("placeholder", "output") and node.name not in known
    )
    return [LeftOut(rest, "not all data flows through here")] if rest else []


def _slot(program: Program, segment: Segment, facts: SegmentFacts, taken: set[str]) -> Slot:
    name = _name(program, segment)
    unique, count = name, 2
    while re.sub(r"\W", "_", unique) in {re.sub(r"\W", "_", other) for other in taken}:
        unique, count = f"{name}_{count}", count + 1
    return Slot(
        unique, segment.nodes, segment.entry, facts.spec_in(segment), facts.spec_out(segment)
    )


def _name(program: Program, segment: Segment) -> str:
    """The common module path of the nodes that couple channels, else the first one's path."""
    paths = [
        str(node.target).split(".")
        for node in map(program.nodes.__getitem__, segment.nodes)
        if any(value.dim() > 1 for value in node_parameters(program.teacher, node))
    ]
    if not paths:
        return segment.nodes[-1]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if len(paths) == 1 and len(common) > 1 and common[-1].isdigit():
        common.pop()  # a lone convolution inside a Sequential: the Sequential is the better name
    return ".".join(common or paths[0])


def _without_shared_weights(program: Program) -> Program:
    """Leaves out the slots whose weights are also used elsewhere."""
    slots, left_out = program.slots, program.left_out
    shared = shared_weights(program)
    for slot in program.slots:
        names = [name for name, owners in shared.items() if f"slot {slot.name!r}" in owners]
        if names:
            slots = tuple(other for other in slots if other is not slot)
            left_out += (LeftOut(slot.nodes, f"weight {names[0]} is also used elsewhere"),)
    return program.with_slots(slots, left_out)
