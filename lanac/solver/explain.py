"""Why a selection problem has no plan: the smallest totals, and the limits that bind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from lanac.solver.problem import Selection, SelectionProblem, SelectionStatus
from lanac.solver.reduce import allowed_ops, exact_total, first_cuts


def why_infeasible(
    problem: SelectionProblem, solve_alone: Callable[[SelectionProblem], Selection]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The smallest total of each limited resource by itself, and the resources that bind.

    Args:
        problem: a problem without a plan.
        solve_alone: solves a problem without limits, where only `forbidden` and `earlier` make it hard.

    Returns:
        `Selection.smallest` and `Selection.binding`.
    """
    smallest: dict[str, float] = {}
    binding = []
    limits = problem.every_limit()
    for limit in limits:
        alone = replace(
            problem,
            scores=limit.table,
            limits={},
            pair_scores={},
            max_changed=None,
            plan_count=1,
        )
        choices = _cheapest(alone)
        if choices is None:
            answer = solve_alone(alone)
            if answer.status is SelectionStatus.INFEASIBLE:
                return {}, ()
            if answer.status is not SelectionStatus.OPTIMAL:
                continue
            choices = answer.plans[0].choices
        total = Fraction(limit.constant) + exact_total(alone.scores, choices)
        rounded = float(total)
        # Rounded up, so that a limit of exactly this number can be met.
        smallest[limit.name] = rounded if rounded >= total else math.nextafter(rounded, math.inf)
        if total > Fraction(limit.most):
            binding.append(limit.name)
    return smallest, tuple(binding or ([limit.name for limit in limits] if smallest else ()))


def _cheapest(problem: SelectionProblem) -> tuple[int, ...] | None:
    """The best op of every slot, unless that is forbidden; needs no solver and is exact."""
    allowed = allowed_ops(problem)
    if not all(allowed):
        return None
    choices = tuple(
        min(pool, key=row.__getitem__) for row, pool in zip(problem.scores, allowed, strict=True)
    )
    hit = any(
        sum(choices[slot] == op for slot, op in cut.pairs) > cut.most for cut in first_cuts(problem)
    )
    return None if hit else choices
