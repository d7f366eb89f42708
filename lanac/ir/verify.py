"""The invariants of a program, checked between passes."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, fx

from lanac.errors import ProgramError
from lanac.ir.graphs import read_attribute
from lanac.ir.outputs import flatten_tensors
from lanac.ir.program import Program, Slot


def verify_program(program: Program, inputs: tuple[Tensor, ...] | None = None) -> None:
    """Raises ProgramError where an invariant does not hold.

    Args:
        program: the program to check.
        inputs: where given, the identity rewrite is compared with the teacher on them.
    """
    _verify_disjoint_and_ordered(program)
    for slot in program.slots:
        _verify_borders(program, slot)
    shared = shared_weights(program)
    if shared:
        name, owners = next(iter(shared.items()))
        raise ProgramError(
            f"weight {name!r} is used by {' and by '.join(owners)}; a slot's weights must be its own"
        )
    if inputs is not None:
        _verify_identity_rewrite(program, inputs)


def _verify_disjoint_and_ordered(program: Program) -> None:
    position = {node.name: i for i, node in enumerate(program.teacher.graph.nodes)}
    owner: dict[str, str] = {}
    last_exit = -1
    for slot in program.slots:
        for name in slot.nodes:
            if name in owner:
                raise ProgramError(f"node {name!r} is in slots {owner[name]!r} and {slot.name!r}")
            owner[name] = slot.name
        places = [position[name] for name in slot.nodes]
        if places != sorted(places) or places[-1] <= last_exit:
            raise ProgramError(f"slot {slot.name!r} does not stand in graph order")
        last_exit = places[-1]


def _verify_borders(program: Program, slot: Slot) -> None:
    inside = set(slot.nodes)
    for name in slot.nodes:
        node = program.nodes[name]
        for source in node.all_input_nodes:
            if source.name not in inside and source.name != slot.input:
                raise ProgramError(
                    f"slot {slot.name!r} has a second entry: {name!r} reads {source.name!r} "
                    f"beside {slot.input!r}"
                )
        leaks = [user.name for user in node.users if user.name not in inside]
        if leaks and name != slot.output:
            raise ProgramError(
                f"slot {slot.name!r} has a second exit: {name!r} is read by {leaks[0]!r} outside"
            )


def shared_weights(program: Program) -> dict[str, list[str]]:
    """Parameters that a slot shares with another slot or with nodes outside: name -> owners."""
    names = {id(value): name for name, value in program.teacher.named_parameters()}
    owners: dict[int, set[str]] = defaultdict(set)
    slot_of = {name: f"slot {slot.name!r}" for slot in program.slots for name in slot.nodes}
    for node in program.teacher.graph.nodes:
        for value in node_parameters(program.teacher, node):
            owners[id(value)].add(slot_of.get(node.name, "nodes outside the slots"))
    return {names[key]: sorted(who) for key, who in owners.items() if len(who) > 1}


def node_parameters(root: fx.GraphModule, node: fx.Node) -> list[Tensor]:
    """The parameters that one node uses."""
    if node.op == "call_module":
        return list(root.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        value = read_attribute(root, str(node.target))
        return [value] if isinstance(value, torch.nn.Parameter) else []
    return []


@torch.no_grad()
def _verify_identity_rewrite(program: Program, inputs: tuple[Tensor, ...]) -> None:
    expected = flatten_tensors(program.teacher(*inputs))
    actual = flatten_tensors(program.split()(*inputs))
    same = len(expected) == len(actual) and all(
        torch.equal(a, b)
        or ((a.isnan() == b.isnan()).all() and torch.equal(a.nan_to_num(), b.nan_to_num()))
        for a, b in zip(expected, actual, strict=True)
    )
    if not same:
        raise ProgramError(
            "the teacher rewritten with its own ops does not compute what the teacher computes; "
            "this is a defect of lanac, please report the model"
        )
