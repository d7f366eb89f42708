"""Pools: which ops are tried for which slot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lanac.errors import PoolError, unknown_name
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, Slot, parse_op
from lanac.ops.base import FAMILIES, Family, SlotView

Pool = Mapping[str, tuple[OpSpec, ...]]
"""The ops of each slot by slot name; the teacher's op is always the first."""

NAMED_POOLS: dict[str, tuple[str, ...]] = {
    "skip": ("identity",),
    "default": (
        "identity",
        "slim",
        "lowrank",
        "kernel",
        "relu",
        "shrink_se",
        "efn(e=1,k=3,se=0)",
        "efn(e=3,k=3,se=0)",
        "cb_bottle(k=3,w=0.25)",
        "cb_bottle(k=3,w=0.5)",
    ),
    "inherit": ("identity", "slim", "lowrank", "kernel", "relu", "shrink_se"),
}
"""Pools by name. `default` holds what inherits the teacher's weights and a few fresh ops: fresh ops
need far more data than most users can spend (docs/benchmarks.md)."""


def parse_pool(text: str) -> tuple[OpSpec | Family, ...]:
    """Reads `--pool`: named pools, families (their whole grid) and single ops, by commas.

    Raises:
        PoolError: an unknown name or a malformed op; names what is known.
    """
    members: list[OpSpec | Family] = []
    for part in re.split(r",(?![^()]*\))", text):
        name = part.strip()
        if name in NAMED_POOLS:
            for member in NAMED_POOLS[name]:
                members.append(_member(member))
        elif name:
            members.append(_member(name))
    if not members:
        raise PoolError(f"pool {text!r} is empty; known: {', '.join(known_pool_names())}")
    return tuple(members)


def known_pool_names() -> list[str]:
    return sorted([*NAMED_POOLS, *FAMILIES.names()])


def _member(text: str) -> OpSpec | Family:
    family = re.split(r"\(", text)[0]
    if family not in FAMILIES.names():
        raise PoolError(unknown_name("pool or op family", family, known_pool_names()))
    return parse_op(text) if "(" in text else FAMILIES.get(family)


def enumerate_slot(
    program: Program, slot: Slot, members: Iterable[OpSpec | Family]
) -> tuple[OpSpec, ...]:
    """The ops of one slot: the teacher's own first, then the members that fit, without repeats.

    Raises:
        PoolError: a single op names options that its family does not have.
    """
    view = SlotView.of(program, slot)
    ops: dict[OpSpec, None] = {TEACHER: None}
    for member in members:
        if not isinstance(member, OpSpec):
            ops.update(dict.fromkeys(member.enumerate(view)))
            continue
        fitting = tuple(FAMILIES.get(member.family).enumerate(view))
        if fitting:
            ops[_in_family_order(member, fitting[0])] = None
    return tuple(ops)


def _in_family_order(op: OpSpec, model: OpSpec) -> OpSpec:
    """The op with its options in the order of its family; values off the family's grid are fine."""
    expected, given = [name for name, _ in model.options], [name for name, _ in op.options]
    if sorted(given) != sorted(expected):
        raise PoolError(
            f"op {str(op)!r} has options {given}, family {op.family!r} takes {expected}, as in {model}"
        )
    return OpSpec(op.family, tuple((name, op[name]) for name in expected))


def needs_distillation(op: OpSpec) -> bool:
    """The teacher's op and identity are used as they are."""
    return op not in (TEACHER, IDENTITY)
