"""Program: the teacher as a torch.fx graph with slots.

Invariants (held by `lanac.ir.verify.verify_program`):
  1. Slots are disjoint and stand in the order of the graph.
  2. A slot has one entry (`input`) and one exit (`output`); no other value crosses its border.
  3. A slot's weights are used nowhere else.
  4. The graph rewritten with every slot's own op computes bit for bit what the teacher computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import fx, nn

from lanac.ir.graphs import read_attribute
from lanac.ir.spec import TensorSpec


@dataclass(frozen=True)
class Slot:
    """A replaceable region of the graph with one input and one output tensor.

    Attributes:
        name: where the region stands in the teacher, such as `blocks.3`; unique.
        nodes: names of its graph nodes, in graph order; the last one is the exit.
        input: name of the node (outside the region) that feeds it.
        input_spec: spec of the tensor that enters.
        output_spec: spec of the tensor that leaves.
    """

    name: str
    nodes: tuple[str, ...]
    input: str
    input_spec: TensorSpec
    output_spec: TensorSpec

    @property
    def output(self) -> str:
        return self.nodes[-1]

    @property
    def attribute(self) -> str:
        """Name of the module that fills this slot in a rewritten graph."""
        return re.sub(r"\W", "_", self.name)

    @property
    def keeps_shape(self) -> bool:
        return self.input_spec == self.output_spec


@dataclass(frozen=True)
class LeftOut:
    """Nodes that are in no slot, and why."""

    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Program:
    """The teacher as IR.

    Attributes:
        teacher: the traced teacher, in eval mode; never changed.
        slots: its slots, in graph order.
        specs: spec of every node whose value is a tensor.
        left_out: what is in no slot, with reasons.
        notes: what a user should know about how the program came about, a sentence each.
    """

    teacher: fx.GraphModule
    slots: tuple[Slot, ...]
    specs: Mapping[str, TensorSpec]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Graph nodes by name."""
        return {node.name: node for node in self.teacher.graph.nodes}

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            self.specs[node.name] for node in self.teacher.graph.nodes if node.op == "placeholder"
        )

    def slot(self, name: str) -> Slot:
        return next(slot for slot in self.slots if slot.name == name)

    def teacher_op(self, slot: Slot) -> fx.GraphModule:
        """The slot's own op as a module of one input; shares its weights with the teacher."""
        graph = fx.Graph()
        entry = graph.placeholder("x")
        copied: dict[fx.Node, fx.Node] = {self.nodes[slot.input]: entry}
        for name in slot.nodes:
            copied[self.nodes[name]] = graph.node_copy(self.nodes[name], copied.__getitem__)
        graph.output(copied[self.nodes[slot.output]])
        module = fx.GraphModule(self.teacher, graph, class_name=_class_name(slot.name))
        module.train(self.teacher.training)
        return module

    def rewrite(self, ops: Mapping[str, nn.Module]) -> fx.GraphModule:
        """The teacher with a module in the place of each slot.

        Args:
            ops: module by slot name; slots that are not named keep the teacher's op. A module
                `None` cannot be given: identity is `nn.Identity()`.

        Returns:
            A graph module that calls one sub-module (named `slot.attribute`) per slot, and the
            nodes outside the slots as they stand in the teacher. Modules are shared, not copied.
        """
        owner = {name: slot for slot in self.slots for name in slot.nodes}
        attributes = {slot.attribute for slot in self.slots}
        graph = fx.Graph()
        modules: dict[str, nn.Module] = {}
        tensors: dict[str, torch.Tensor | nn.Parameter] = {}
        copied: dict[fx.Node, fx.Node] = {}
        for node in self.teacher.graph.nodes:
            slot = owner.get(node.name)
            if slot is None:
                copied[node] = graph.node_copy(node, copied.__getitem__)
                if node.op not in ("call_module", "get_attr"):
                    continue
                copied[node].target = target = _beside(node.target, attributes)
                if node.op == "call_module":
                    modules[target] = self.teacher.get_submodule(node.target)
                else:
                    tensors[target] = read_attribute(self.teacher, node.target)
            elif node.name == slot.output:
                name = slot.attribute
                modules[name] = ops[slot.name] if slot.name in ops else self.teacher_op(slot)
                copied[node] = graph.call_module(name, (copied[self.nodes[slot.input]],))
        module = fx.GraphModule({**modules, **tensors}, graph, class_name="Student")
        module.train(self.teacher.training)
        return module

    def split(self) -> fx.GraphModule:
        """The teacher with its own ops as sub-modules: the identity rewrite."""
        return self.rewrite({})

    def outside(self) -> tuple[fx.GraphModule, tuple[TensorSpec, ...]] | None:
        """What lies outside the slots as one module, with the specs of its inputs.

        Its inputs are the network's inputs and what leaves the slots; its outputs are what enters
        the slots and the network's outputs. None where no node outside computes anything.
        """
        inside = {name for slot in self.slots for name in slot.nodes}
        exits = {slot.output for slot in self.slots}
        graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        specs: list[TensorSpec] = []
        computed: list[fx.Node] = []
        for node in self.teacher.graph.nodes:
            if node.op == "placeholder" or node.name in exits:
                copied[node] = graph.placeholder(node.name)
                specs.append(self.specs[node.name])
            elif node.name not in inside and node.op != "output":
                copied[node] = graph.node_copy(node, copied.__getitem__)
                if node.op != "get_attr":
                    computed.append(copied[node])
        if not computed:
            return None
        ends = [node for node in computed if not node.users]
        entries = [copied[self.nodes[slot.input]] for slot in self.slots]
        outputs = dict.fromkeys([*ends, *(node for node in entries if node in computed)])
        graph.output(tuple(outputs))
        for node in list(graph.nodes):
            if node.op == "placeholder" and not node.users:
                specs.pop([n for n in graph.nodes if n.op == "placeholder"].index(node))
                graph.erase_node(node)
        return fx.GraphModule(self.teacher, graph, class_name="Outside"), tuple(specs)

    def with_slots(self, slots: tuple[Slot, ...], left_out: tuple[LeftOut, ...]) -> Program:
        return replace(self, slots=slots, left_out=left_out)

    def print(self) -> str:
        """A deterministic text of the program: one line per slot, then what was left out."""
        width = max([len(slot.name) for slot in self.slots], default=0)
        lines = [
            f"slot {index:>3} {slot.name:<{width}}  {slot.input_spec} -> {slot.output_spec}"
            f"  ({len(slot.nodes)} nodes: {slot.nodes[0]} .. {slot.output})"
            for index, slot in enumerate(self.slots)
        ]
        lines += [f"left out: {_few(part.nodes)}: {part.reason}" for part in self.left_out]
        return "\n".join(lines)


def _few(names: tuple[str, ...]) -> str:
    """All of a few names, the first ones of many."""
    if len(names) <= 6:
        return ", ".join(names)
    return f"{', '.join(names[:4])} and {len(names) - 4} more"


def _beside(target: str, attributes: set[str]) -> str:
    """The path of something outside the slots; another one where it would lie in a slot's module."""
    if target.split(".")[0] not in attributes:
        return target
    return "outside_" + re.sub(r"\W", "_", target)


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"\W|_", name)) or "Slot"
