"""Partition: the teacher's graph is cut into slots, by data flow alone.

The outermost regions of the graph are the segments between its cuts. A region that long skips hold
together is looked into; neighbours that belong together are joined; what remains and holds weights
is a slot, once its border is closed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import fx

from lanac.errors import ProgramError
from lanac.frontend.closing import Closer
from lanac.frontend.merging import MAX_DEPTH, RegionFacts, merge_affine, merge_regions
from lanac.frontend.regions import Flow, Region
from lanac.frontend.tracing import Trace
from lanac.ir import LeftOut, Program, Slot, node_parameters, shared_weights

BLOCK, LAYER = "block", "layer"


@dataclass(frozen=True)
class SlotOptions:
    """What becomes a slot.

    Attributes:
        granularity: `block`: a residual block is one slot; `layer`: a convolution or linear layer
            with its norm and activation is one.
        only: glob patterns of module paths; nothing else becomes a slot.
        skip: glob patterns of module paths that stay as they are.
    """

    granularity: str = BLOCK
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.granularity not in (BLOCK, LAYER):
            raise ProgramError(
                f"granularity {self.granularity!r} is unknown; expected {BLOCK} or {LAYER}"
            )


BLOCKS = SlotOptions()
"""The default: residual blocks, everywhere."""


def partition(trace: Trace, options: SlotOptions = BLOCKS) -> Program:
    """Cuts the traced teacher into slots.

    Args:
        trace: the traced teacher. Its graph is changed where the border of a slot has to be closed;
            what it computes is not.
        options: what becomes a slot.

    Returns:
        The program; what is in no slot stands in `left_out` with its reason.

    Raises:
        ProgramError: nothing in the network can become a slot, or a pattern fits no module.
    """
    teacher = trace.module
    program = Program(teacher, (), trace.specs)
    flow = Flow(teacher.graph, trace.specs, trace.seen.carriers, trace.seen.hidden_reads)
    facts = RegionFacts(program, flow)
    paths = ModulePaths(program, options)
    closer = Closer(teacher, flow, trace.seen, trace.see_more)
    chosen: list[Region] = []
    left_out: list[LeftOut] = []
    for region in find_regions(flow, facts, options.granularity):
        region = _with_private_sources(program, region, flow)
        reason = _why_not_a_slot(facts, region) or paths.why_not(facts.layers(region))
        if reason is None:
            region, reason = closer.close(region)
        if reason is None:
            chosen.append(region)
        else:
            left_out.append(LeftOut(region.nodes, reason))
    for region in chosen:
        closer.free_readers(region)
    program = _assemble(trace, closer, chosen, left_out)
    if not program.slots:
        reasons = "; ".join(sorted({part.reason for part in program.left_out})) or "no layers"
        raise ProgramError(
            f"nothing in {type(teacher).__name__} can become a slot ({reasons}). lanac needs "
            "layers with weights, with one tensor in and one tensor out."
        )
    return program


def find_regions(flow: Flow, facts: RegionFacts, granularity: str = BLOCK) -> list[Region]:
    """The regions that slots are made of, joined where they belong together, in graph order."""
    found: list[Region] = []
    open_: list[Region | None] = [None]
    while open_:
        whole: list[Region] = []
        for region in flow.outermost(open_.pop()):
            if _is_one(region, flow, facts, granularity):
                whole.append(region)
            else:
                open_.append(region)
        for chain in flow.chains(whole):
            merge = merge_regions if granularity == BLOCK else merge_affine
            found += merge(chain, facts)
    return sorted(found, key=lambda region: flow.place[region.exit])


def _is_one(region: Region, flow: Flow, facts: RegionFacts, granularity: str) -> bool:
    """Whether a region is one slot; else the regions inside it are."""
    if granularity == LAYER:
        return len(facts.layers(region)) <= 1
    if facts.depth(region) > MAX_DEPTH or facts.passes_its_input_on(region):
        return False
    inside = [flow.regions[name] for name in region.nodes[:-1] if name in flow.regions]
    if facts.shares_weights(region) and any(facts.layers(part) for part in inside):
        return False  # what is shared stays; the rest can be replaced
    # A residual block inside: what holds it is a stage, not a block.
    return not any(facts.is_sum(part) and facts.depth(part) > 1 for part in inside)


def _with_private_sources(program: Program, region: Region, flow: Flow) -> Region:
    """The region with the weights, constants and sizes that only its nodes use."""
    known = set(region.nodes)
    private: set[str] = set()
    stack = [source for name in region.nodes for source in program.nodes[name].all_input_nodes]
    while stack:
        node = stack.pop()
        if node.name in known | private or node.name in flow or node.op == "placeholder":
            continue
        if all(user.name in known | private for user in node.users):
            private.add(node.name)
            stack.extend(node.all_input_nodes)
    # What is made of a tensor elsewhere, if only of its size, is none of the region's.
    for name in sorted(private, key=flow.place.__getitem__):
        sources = {source.name for source in program.nodes[name].all_input_nodes}
        if sources <= known | {region.entry}:
            known.add(name)
    return Region(region.entry, tuple(sorted(known, key=flow.place.__getitem__)))


def _why_not_a_slot(facts: RegionFacts, region: Region) -> str | None:
    if not facts.weights(region):
        return "no weights"
    before, after = facts.spec_in(region), facts.spec_out(region)
    if not (before.dtype.is_floating_point and after.dtype.is_floating_point):
        return "not floating point"
    if before.shape[:1] != after.shape[:1]:
        return "the batch dimension changes"
    return None


class ModulePaths:
    """The user's patterns of module paths.

    Raises:
        ProgramError: a pattern fits no module.
    """

    def __init__(self, program: Program, options: SlotOptions) -> None:
        self._program, self._options = program, options
        paths = {path for node in program.nodes.values() for path in self._above(node)}
        for option, patterns in (("only", options.only), ("skip", options.skip)):
            for pattern in patterns:
                if not any(fnmatchcase(path, pattern) for path in paths):
                    top = sorted({path.split(".")[0] for path in paths})
                    raise ProgramError(
                        f"--{option} {pattern!r} fits no module of {type(program.teacher).__name__}"
                        f"; at the top it has {', '.join(top)} (lanac inspect shows the slots)"
                    )

    def why_not(self, layers: Sequence[str]) -> str | None:
        """The pattern that keeps these layers out of a slot, None where none does."""
        for name in layers:
            node = self._program.nodes[name]
            for pattern in self._options.skip:
                if self._fits(node, pattern):
                    return f"skipped by --skip {pattern}"
            if self._options.only and not any(self._fits(node, p) for p in self._options.only):
                return "not named by --only"
        return None

    def _fits(self, node: fx.Node, pattern: str) -> bool:
        return any(fnmatchcase(path, pattern) for path in self._above(node))

    @staticmethod
    def _above(node: fx.Node) -> list[str]:
        """The module of a node and the modules that hold it, by path."""
        if node.op not in ("call_module", "get_attr"):
            return []
        parts = str(node.target).split(".")
        return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _assemble(
    trace: Trace, closer: Closer, regions: Sequence[Region], left_out: list[LeftOut]
) -> Program:
    graph = trace.module.graph
    graph.eliminate_dead_code()
    graph.lint()
    trace.module.recompile()
    alive = {node.name: place for place, node in enumerate(graph.nodes)}
    specs = {name: spec for name, spec in closer.specs.items() if name in alive}
    program = Program(trace.module, (), specs, notes=trace.notes + _size_note(closer))
    slots: list[Slot] = []
    for region in regions:
        nodes = tuple(sorted(set(region.nodes) & alive.keys(), key=alive.__getitem__))
        leak = _leak(program, nodes)
        if leak is None:
            name = _name(program, nodes, {slot.attribute for slot in slots})
            slots.append(Slot(name, nodes, region.entry, specs[region.entry], specs[nodes[-1]]))
        else:
            left_out.append(LeftOut(nodes, leak))
    parts = [
        LeftOut(tuple(name for name in part.nodes if name in alive), part.reason)
        for part in left_out
    ]
    program = _without_shared_weights(program.with_slots(tuple(slots), tuple(parts)))
    rest = _beside_the_regions(program, trace.seen.carriers)
    return program.with_slots(program.slots, program.left_out + rest)


def _size_note(closer: Closer) -> tuple[str, ...]:
    if not closer.fixed_sizes:
        return ()
    return (
        "slots take the sizes of feature maps from the example: the student works for inputs of "
        "its size only, in any batch size",
    )


def _leak(program: Program, nodes: tuple[str, ...]) -> str | None:
    inside = set(nodes)
    for name in nodes[:-1]:
        for user in program.nodes[name].users:
            if user.name not in inside:
                return f"{user.name} outside also reads {name}"
    return None


def _beside_the_regions(program: Program, carriers: Collection[str]) -> tuple[LeftOut, ...]:
    """The nodes that compute something and are in no region."""
    known = {name for slot in program.slots for name in slot.nodes}
    known |= {name for part in program.left_out for name in part.nodes}
    rest = [
        node.name
        for node in program.nodes.values()
        if node.op not in ("placeholder", "output") and node.name not in known
    ]
    tensors = tuple(name for name in rest if name in carriers)
    sizes = tuple(name for name in rest if name not in carriers)
    found = (
        LeftOut(tensors, "no region with one tensor in and one tensor out"),
        LeftOut(sizes, "sizes, no tensors"),
    )
    return tuple(part for part in found if part.nodes)


def _name(program: Program, nodes: Sequence[str], taken: set[str]) -> str:
    """The common module path of the nodes that couple channels, else the first one's path."""
    name = _common_path(program, nodes)
    unique, count = name, 2
    while re.sub(r"\W", "_", unique) in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique


def _common_path(program: Program, nodes: Sequence[str]) -> str:
    holders = [
        node
        for node in map(program.nodes.__getitem__, nodes)
        if any(value.dim() > 1 for value in node_parameters(program.teacher, node))
    ]
    if not holders:
        return nodes[-1]
    # A bare weight (a position embedding) says less than the layers it stands beside.
    layers = [node for node in holders if node.op == "call_module"]
    paths = [_module_path(node).split(".") for node in layers or holders]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if len(paths) == 1 and len(common) > 1 and common[-1].isdigit():
        common.pop()  # a lone convolution inside a Sequential: the Sequential is the better name
    return ".".join(common or paths[0])


def _module_path(node: fx.Node) -> str:
    """The module that is called, or that holds the weight which is read."""
    path = str(node.target)
    return path.rpartition(".")[0] or path if node.op == "get_attr" else path


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
