"""Why a selection problem has no plan: the smallest totals, and the limits that bind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from lanac.solver.problem import Selection, SelectionProblem, SelectionStatus
from lanac.solver.reduce import allowed_ops, exact_total


def why_infeasible(
    problem: SelectionProblem, solve_alone: Callable[[SelectionProblem], Selection]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The smallest total of each limited resource by itself, and the resources that bind.

    Args:
        problem: a problem without a plan.
        solve_alone: solves a problem without limits, where only `forbidden` makes it hard.

    Returns:
        `Selection.smallest` and `Selection.binding`.
    """
    smallest: dict[str, float] = {}
    binding = []
    for name, limit in problem.limits.items():
        alone = replace(
            problem,
            scores=problem.costs[name],
            limits={},
            plan_count=1,
            max_overlap=None,
        )
        choices = _cheapest(alone)
        if choices is None:
            answer = solve_alone(alone)
            if answer.status is SelectionStatus.INFEASIBLE:
                return {}, ()
            if answer.status is not SelectionStatus.OPTIMAL:
                continue
            choices = answer.plans[0].choices
        constant = Fraction(problem.constants.get(name, 0.0))
        total = constant + exact_total(alone.scores, choices)
        rounded = float(total)
        # Rounded up, so that a limit of exactly this number can be met.
        smallest[name] = rounded if rounded >= total else math.nextafter(rounded, math.inf)
        if total > Fraction(limit):
            binding.append(name)
    return smallest, tuple(binding or (problem.limits if smallest else ()))


def _cheapest(problem: SelectionProblem) -> tuple[int, ...] | None:
    """The best op of every slot, unless that is forbidden; needs no solver and is exact."""
    allowed = allowed_ops(problem)
    if not all(allowed):
        return None
    choices = tuple(
        min(pool, key=row.__getitem__) for row, pool in zip(problem.scores, allowed, strict=True)
    )
    hit = any(all(choices[slot] == op for slot, op in pairs) for pairs in problem.forbidden)
    return None if hit else choices
