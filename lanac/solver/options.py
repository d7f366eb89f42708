"""More checks: what a selection problem may say beyond costs and limits, and how it is solved."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence

from lanac.errors import SelectionError
from lanac.solver.validate import Names, Pair, Pools, check_number, check_pair, is_index

METHODS = ("tree", "scip")


def check_kept(
    own: Sequence[int] | None, kept: Iterable[int], slots: Names, ops: Pools
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """One existing op of its own for each slot, and kept slots that exist."""
    places = []
    for slot in kept:
        if not is_index(slot) or not 0 <= slot < len(slots):
            raise SelectionError(
                f"selection problem, kept: expected a slot index in 0..{len(slots) - 1}, "
                f"got {slot!r}. Indices follow the order of the slots."
            )
        places.append(operator.index(slot))
    if own is None:
        if places:
            raise SelectionError(
                "selection problem, kept: expected `own`, the op of each slot that changes "
                "nothing, got none. Give `own`, or fix the slots."
            )
        return None, ()
    if len(own) != len(slots):
        raise SelectionError(
            f"selection problem, own: expected one op for each of the {len(slots)} slots, "
            f"got {len(own)}. Give the index of the teacher's op in every pool."
        )
    pairs = [check_pair("own", pair, slots, ops) for pair in enumerate(own)]
    return tuple(op for _, op in pairs), tuple(sorted(set(places)))


def check_changed(
    max_changed: int | None, own: tuple[int, ...] | None, fixed: Mapping[int, int], slots: Names
) -> None:
    """A count of slots that what is fixed does not exceed already."""
    if max_changed is None:
        return
    if not is_index(max_changed) or max_changed < 0:
        raise SelectionError(
            f"selection problem, max_changed: expected an integer of at least 0, got "
            f"{max_changed!r}. Use None for no limit."
        )
    if own is None:
        raise SelectionError(
            "selection problem, max_changed: expected `own`, the op of each slot that changes "
            "nothing, got none. Give `own`, or no limit on changed slots."
        )
    changed = [slots[slot] for slot, op in fixed.items() if op != own[slot]]
    if len(changed) > max_changed:
        raise SelectionError(
            f"selection problem, max_changed: expected at least {len(changed)}, because so many "
            f"slots are fixed to another op than their own ({', '.join(changed)}), got "
            f"{max_changed}. Raise it, or remove a fixing."
        )


def check_earlier(
    earlier: Iterable[Sequence[int]], slots: Names, ops: Pools
) -> tuple[tuple[int, ...], ...]:
    """Each earlier plan takes one existing op in every slot."""
    plans = []
    for number, plan in enumerate(earlier):
        where = f"earlier plan {number}"
        if len(plan) != len(slots):
            raise SelectionError(
                f"selection problem, {where}: expected one op for each of the {len(slots)} "
                f"slots, got {len(plan)}. Give whole plans; use `forbidden` for parts of plans."
            )
        plans.append(tuple(check_pair(where, pair, slots, ops)[1] for pair in enumerate(plan)))
    return tuple(plans)


def check_pair_scores(
    pair_scores: Mapping[tuple[Pair, Pair], float], slots: Names, ops: Pools
) -> dict[tuple[Pair, Pair], float]:
    """A finite number for pairs in two different slots, each once, the earlier slot first."""
    found: dict[tuple[Pair, Pair], float] = {}
    for key, value in pair_scores.items():
        where = f"pair_scores of {key!r}"
        if not isinstance(key, tuple) or len(key) != 2:
            raise SelectionError(
                f"selection problem, {where}: expected two pairs (slot, op) as the key. "
                "Write ((slot, op), (slot, op))."
            )
        one, two = sorted(check_pair(where, pair, slots, ops) for pair in key)
        if one[0] == two[0]:
            raise SelectionError(
                f"selection problem, {where}: expected two different slots, got slot "
                f"{slots[one[0]]!r} twice. A slot takes one op; correct the key."
            )
        if (one, two) in found:
            raise SelectionError(
                f"selection problem, {where}: expected each pair once, got it in both orders. "
                "Keep one of them."
            )
        found[one, two] = check_number(where, value, negative=True)
    return found


def check_method(method: str) -> None:
    """A way of solving that exists."""
    if method not in METHODS:
        raise SelectionError(
            f"selection, method: expected one of {', '.join(METHODS)}, got {method!r}. "
            "Use 'tree', or 'scip' for one call of SCIP per plan."
        )


def check_solve_options(seed: int, time_limit_s: float, gap: float) -> None:
    """The seed is one SCIP takes, the time above 0, the gap finite and at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise SelectionError(
            f"selection, seed: expected an integer in 0..2147483647, got {seed!r}. "
            "Choose a seed in this range."
        )
    if not time_limit_s > 0:
        raise SelectionError(
            f"selection, time_limit_s: expected a number of seconds above 0, got {time_limit_s!r}. "
            "Use math.inf for no limit."
        )
    if not 0 <= gap < math.inf:
        raise SelectionError(
            f"selection, gap: expected a finite number of at least 0, got {gap!r}. "
            "Use 0 for proven optimal plans, 0.02 for plans within 2 %."
        )
