"""Checks of a selection problem at its construction: each returns the normalised value."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence

from lanac.errors import SelectionError, unknown_name

Names = tuple[str, ...]
Pools = tuple[Names, ...]
Pair = tuple[int, int]

LARGEST = 1e100  # totals of numbers up to here cannot overflow a float


def check_names(slots: Iterable[str], ops: Iterable[Iterable[str]]) -> tuple[Names, Pools]:
    """At least one slot, a non-empty pool for each, no name twice."""
    names, pools = tuple(slots), tuple(tuple(pool) for pool in ops)
    if not names:
        raise SelectionError(
            "selection problem: expected at least one slot, got none. "
            "Check that the partition of the teacher found slots."
        )
    if len(pools) != len(names):
        raise SelectionError(
            f"selection problem, ops: expected one pool for each of the {len(names)} slots, "
            f"got {len(pools)}. Give the pools in the order of the slots."
        )
    _check_unique("slots", names)
    for slot, pool in zip(names, pools, strict=True):
        if not pool:
            raise SelectionError(
                f"selection problem, ops of slot {slot!r}: expected at least one op, got none. "
                "Keep at least the teacher's own op in every pool."
            )
        _check_unique(f"ops of slot {slot!r}", pool)
    return names, pools


def _check_unique(where: str, names: Names) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SelectionError(
                f"selection problem, {where}: expected each name once, got {name!r} twice. "
                "Rename or remove one."
            )
        seen.add(name)


def check_table(
    what: str, table: Sequence[Sequence[float]], slots: Names, ops: Pools, *, negative: bool
) -> tuple[tuple[float, ...], ...]:
    """One finite number for each slot and op, as floats."""
    if len(table) != len(slots):
        raise SelectionError(
            f"selection problem, {what}: expected one row for each of the {len(slots)} slots, "
            f"got {len(table)}. Give one row per slot, in the order of the slots."
        )
    rows = []
    for slot, pool, row in zip(slots, ops, table, strict=True):
        if len(row) != len(pool):
            raise SelectionError(
                f"selection problem, {what}, slot {slot!r}: expected {len(pool)} numbers, one "
                f"per op, got {len(row)}. Give the numbers in the order of the ops."
            )
        rows.append(
            tuple(
                check_number(f"{what}, slot {slot!r}, op {op!r}", value, negative)
                for op, value in zip(pool, row, strict=True)
            )
        )
    return tuple(rows)


def check_number(where: str, value: float, negative: bool) -> float:
    """A finite number of a size whose sums cannot overflow."""
    smallest = -LARGEST if negative else 0.0
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not smallest <= number <= LARGEST:
        raise SelectionError(
            f"selection problem, {where}: expected a finite number in "
            f"{smallest:g}..{LARGEST:g}, got {value!r}. "
            "Correct the number, or leave the entry out."
        )
    return number


def check_resources(what: str, given: Mapping[str, float], costs: Mapping[str, object]) -> None:
    """Every resource named has costs."""
    for name in given:
        if name not in costs:
            raise SelectionError(
                f"selection problem, {what}: {unknown_name('resource', name, costs)} "
                f"Expected a resource with costs; add its costs or remove it from the {what}."
            )


def check_numbers(what: str, given: Mapping[str, float], *, negative: bool) -> dict[str, float]:
    """A finite number for each resource."""
    return {k: check_number(f"{what}, resource {k!r}", v, negative) for k, v in given.items()}


def check_plan_options(plan_count: int, max_overlap: int | None, slot_count: int) -> None:
    """K at least 1, the overlap within 0..N-1."""
    if not is_index(plan_count) or plan_count < 1:
        raise SelectionError(
            f"selection problem, plan_count: expected an integer of at least 1, "
            f"got {plan_count!r}. Ask for at least one plan."
        )
    if max_overlap is None:
        return
    if not is_index(max_overlap) or not 0 <= max_overlap < slot_count:
        raise SelectionError(
            f"selection problem, max_overlap: expected an integer in 0..{slot_count - 1} "
            f"(number of slots less one), got {max_overlap!r}. "
            "Use None if plans only have to differ."
        )


def is_index(value: object) -> bool:
    """Whether the value can be an index; True and False cannot."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def check_fixed(
    fixed: Mapping[int, int],
    own: tuple[int, ...] | None,
    kept: tuple[int, ...],
    slots: Names,
    ops: Pools,
) -> dict[int, int]:
    """Every fixed slot and op exists; kept slots are fixed to their own op."""
    given = dict(check_pair("fixed", pair, slots, ops) for pair in fixed.items())
    for slot, op in ((slot, own[slot]) for slot in kept) if own else ():
        if given.setdefault(slot, op) != op:
            raise SelectionError(
                f"selection problem, fixed, slot {slots[slot]!r}: expected its own op "
                f"{ops[slot][op]!r} because the slot is kept, got {ops[slot][given[slot]]!r}. "
                "Remove the fixing, or do not keep the slot."
            )
    return given


def check_pair(where: str, pair: Sequence[int], slots: Names, ops: Pools) -> Pair:
    """A slot and an op of it that exist."""
    if len(pair) != 2 or not all(is_index(value) for value in pair):
        raise SelectionError(
            f"selection problem, {where}: expected a pair of integers (slot, op), "
            f"got {pair!r}. Give indices, not names."
        )
    slot, op = operator.index(pair[0]), operator.index(pair[1])
    if not 0 <= slot < len(slots):
        raise SelectionError(
            f"selection problem, {where}: expected a slot index in 0..{len(slots) - 1}, "
            f"got {slot}. Indices follow the order of the slots."
        )
    if not 0 <= op < len(ops[slot]):
        raise SelectionError(
            f"selection problem, {where}: expected an op index in 0..{len(ops[slot]) - 1} for "
            f"slot {slots[slot]!r}, got {op}. Indices follow the order of the ops."
        )
    return slot, op


def check_forbidden(
    forbidden: Iterable[Iterable[Sequence[int]]], fixed: dict[int, int], slots: Names, ops: Pools
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Every forbidden set names existing ops and is not wholly fixed; pairs sorted, each once."""
    sets = []
    for number, pairs in enumerate(forbidden):
        where = f"forbidden set {number}"
        chosen = sorted({check_pair(where, pair, slots, ops) for pair in pairs})
        if not chosen:
            raise SelectionError(
                f"selection problem, {where}: expected at least one (slot, op), got none. "
                "An empty set would forbid every plan; remove it."
            )
        if all(fixed.get(slot) == op for slot, op in chosen):
            names = ", ".join(f"{slots[slot]}={ops[slot][op]}" for slot, op in chosen)
            raise SelectionError(
                f"selection problem, {where}: expected at least one choice left open, got all "
                f"of them fixed ({names}). Remove the forbidden set or one of the fixings."
            )
        sets.append(tuple(chosen))
    return tuple(sets)
