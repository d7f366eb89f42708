"""The selection problem seen from a plan: scores are what changes when that plan is changed.

The sum of scores that were measured one by one in the teacher (LANA, Eq. 3) misleads where many
slots change. Around a plan that changes many slots already, sums of changes are right for the plans
near to it, and pair terms make them right a step further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lanac.solver.lagrange import op_bounds
from lanac.solver.problem import Pair, SelectionProblem
from lanac.solver.reduce import reduce_problem

PairOfPairs = tuple[Pair, Pair]


def changed(base: Sequence[int], *pairs: Pair) -> tuple[int, ...]:
    """The choices with other ops in some slots."""
    choices = list(base)
    for slot, op in pairs:
        choices[slot] = op
    return tuple(choices)


def promising(problem: SelectionProblem, base: Sequence[int], most: int) -> list[Pair]:
    """The changes of one slot of a plan that a good plan is most likely to contain, best first.

    Args:
        problem: its limits keep `base`.
        base: one op per slot.
        most: how many.

    Returns:
        (slot, op) in the order of the Lagrangian bound of the plans that contain them; what no plan
        within the limits can contain is left out.
    """
    reduced = reduce_problem(problem)
    if reduced is None:
        return []
    bounds = op_bounds(reduced)
    others = [pair for pair in bounds if base[pair[0]] != pair[1]]
    return sorted(others, key=lambda pair: (bounds[pair], pair))[:most]


def around(
    problem: SelectionProblem,
    base: Sequence[int],
    changes: Mapping[Pair, float],
    interactions: Mapping[PairOfPairs, float] | None = None,
) -> SelectionProblem:
    """The problem with scores that are measured around a plan.

    Args:
        problem: limits and restrictions are kept.
        base: one op per slot; its score becomes 0.
        changes: what the loss changes by when one slot of `base` takes another op. What is not
            measured cannot be chosen.
        interactions: what two changes together add to the sum of both.
    """
    scores = tuple(
        tuple(changes.get((slot, op), 0.0) for op in range(len(pool)))
        for slot, pool in enumerate(problem.ops)
    )
    unknown = tuple(
        ((slot, op),)
        for slot, pool in enumerate(problem.ops)
        for op in range(len(pool))
        if op != base[slot] and (slot, op) not in changes
    )
    return replace(
        problem,
        scores=scores,
        forbidden=(*problem.forbidden, *unknown),
        pair_scores=dict(interactions or {}),
    )


def without(problem: SelectionProblem, plans: Iterable[Sequence[int]]) -> SelectionProblem:
    """The problem with cuts that forbid whole plans, which were measured already."""
    cuts = tuple(tuple(enumerate(plan)) for plan in plans)
    return replace(problem, forbidden=(*problem.forbidden, *cuts))


def interaction(base: float, first: float, second: float, both: float) -> float:
    """L(ij) - L(i) - L(j) + L(0): what two changes together add to the sum of both.

    Args:
        base: loss of the plan.
        first: with one change.
        second: with the other one.
        both: with both.
    """
    return both - first - second + base
