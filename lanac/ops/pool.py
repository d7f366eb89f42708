"""Pools: which ops are tried for which slot."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from lanac.errors import PoolError, unknown_name
from lanac.ir import IDENTITY, TEACHER, OpSpec, OptionValue, Program, Slot, parse_op
from lanac.ops.base import Family, SlotView
from lanac.ops.families import INSTALLED, Families
from lanac.ops.values import LimitedFamily

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
    "paper": (
        "identity",
        "efn",
        "efnv2",
        "cb_stack",
        "cb_bottle",
        "cb_res",
        "repvgg",
        "conv_cs",
        "vit",
        "bot",
        "lambda",
    ),
}
"""Pools by name. `default` holds what inherits the teacher's weights and a few fresh ops: fresh ops
need far more data than most users can spend (docs/benchmarks.md). `paper` is the pool of the paper,
197 ops for a feature map whose shape stays (docs/ops.md has the split)."""


def parse_pool(text: str, families: Families = INSTALLED) -> tuple[OpSpec | Family, ...]:
    """Reads `--pool`: named pools, families (their whole grid) and single ops, by commas.

    Raises:
        PoolError: an unknown name or a malformed op; names what is known.
    """
    members: list[OpSpec | Family] = []
    for part in re.split(r",(?![^()]*\))", text):
        name = part.strip()
        if name in NAMED_POOLS:
            for member in NAMED_POOLS[name]:
                members.append(_member(member, families))
        elif name:
            members.append(_member(name, families))
    if not members:
        known = ", ".join(known_pool_names(families))
        raise PoolError(f"pool {text!r} is empty; known: {known}")
    return tuple(members)


def known_pool_names(families: Families = INSTALLED) -> list[str]:
    return sorted([*NAMED_POOLS, *families.names()])


def _member(text: str, families: Families) -> OpSpec | Family:
    family = re.split(r"\(", text)[0]
    if family not in families.names():
        raise PoolError(unknown_name("pool or op family", family, known_pool_names(families)))
    return parse_op(text) if "(" in text else families.get(family)


class ListingError(PoolError):
    """A family fails to list its ops for a slot, or lists what is none of its ops."""

    def __init__(self, family: str, slot: str, reason: str) -> None:
        super().__init__(f"family {family!r}, slot {slot!r}: enumerate() {reason}")
        self.family, self.slot = family, slot


def enumerate_slot(
    program: Program,
    slot: Slot,
    members: Iterable[OpSpec | Family],
    families: Families = INSTALLED,
    failures: list[ListingError] | None = None,
) -> tuple[OpSpec, ...]:
    """The ops of one slot: the teacher's own first, then the members that fit, without repeats.

    Args:
        program: the slot's program.
        slot: the slot.
        members: families, for their whole grid, and single ops.
        families: of the run.
        failures: where given, takes the errors of families that fail to list their ops; they are
            then left out.

    Raises:
        ListingError: a family fails to list its ops.
        PoolError: a single op has options that its family does not have, or values that it does not
            take.
    """
    view = SlotView.of(program, slot)
    ops: dict[OpSpec, None] = {TEACHER: None}
    for member in members:
        family = families.get(member.family) if isinstance(member, OpSpec) else member
        try:
            grid = _listed(family, view)
        except ListingError as error:
            if failures is None:
                raise
            failures.append(error)
            continue
        if isinstance(member, OpSpec):
            grid = (_as_listed(member, grid, family),) if grid else ()
        ops.update(dict.fromkeys(grid))
    return tuple(ops)


def _listed(family: Family, view: SlotView) -> tuple[OpSpec, ...]:
    """The family's ops for a slot; each is one of the family and can be written as text."""
    name, slot = family.name, view.slot.name
    expected = f"expected OpSpec.of({name!r}, option=value, ...)"
    try:
        found: tuple[object, ...] = tuple(family.enumerate(view))
    except Exception as error:
        raise ListingError(name, slot, f"fails: {type(error).__name__}: {error}") from error
    ops = []
    for op in found:
        if not isinstance(op, OpSpec):
            raise ListingError(name, slot, f"gives {op!r}; {expected}")
        if op.family != name:
            raise ListingError(name, slot, f"gives {op}, of another family; {expected}")
        for option, value in op.options:
            if not _has_text(option, value):
                raise ListingError(
                    name, slot, f"gives an op with {option}={value!r}, which is not the same when "
                    "read back from text; expected a number, or a word without blanks, commas and "
                    "brackets",
                )  # fmt: skip
        ops.append(op)
    return tuple(ops)


def _has_text(option: str, value: object) -> bool:
    try:
        read = parse_op(f"op({option}={value})").options
    except PoolError:
        return False
    return read == ((option, value),) and isinstance(value, type(read[0][1]))


def _as_listed(op: OpSpec, grid: Sequence[OpSpec], family: Family) -> OpSpec:
    """The op with its options in the order of its family; values off the family's grid are fine.

    What an option takes the family says; else it is seen from the grid: whole numbers, numbers, or
    words.
    """
    given = [name for name, _ in op.options]
    expected = [name for name, _ in grid[0].options]
    such = f"as in {grid[0]}"
    for name in given:
        if name not in expected:
            known = unknown_name(f"option of {op.family}", name, expected) if expected else ""
            raise PoolError(f"op {str(op)!r}: {known or f'{op.family} takes no options'}")
        if given.count(name) > 1:
            raise PoolError(f"op {str(op)!r}: option {name!r} is given twice, expected once")
    missing = [name for name in expected if name not in given]
    if missing:
        raise PoolError(f"op {str(op)!r}: option {missing[0]!r} is missing; expected all, {such}")
    for name in expected:
        wanted = _wanted({type(other[name]) for other in grid if name in dict(other.options)})
        if not isinstance(op[name], wanted[0]):
            raise PoolError(
                f"op {str(op)!r}: option {name!r} is {op[name]!r}, expected {wanted[1]}, {such}"
            )
        values = dict(family.option_values).get(name) if isinstance(family, LimitedFamily) else None
        if values is not None and not values.hold(op[name]):
            raise PoolError(
                f"op {str(op)!r}: option {name!r} is {op[name]!r}, expected {values.text}; {such}"
            )
    return OpSpec(op.family, tuple((name, op[name]) for name in expected))


def _wanted(kinds: Collection[type[OptionValue]]) -> tuple[type | tuple[type, ...], str]:
    """The types that an option takes, and what they are called."""
    if str in kinds:
        return (str, "a word") if len(kinds) == 1 else ((int, float, str), "a number or a word")
    return ((int, float), "a number") if float in kinds else (int, "a whole number")


def inherits(op: OpSpec) -> bool:
    """Whether an op is of a family that keeps the teacher's weights."""
    return op != IDENTITY and op.family in NAMED_POOLS["inherit"]


def needs_distillation(op: OpSpec) -> bool:
    """The teacher's op and identity are used as they are."""
    return op not in (TEACHER, IDENTITY)
