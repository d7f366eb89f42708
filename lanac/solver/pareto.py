"""The best plan at each of several budgets, and what a budget is worth there."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lanac.errors import SelectionError, unknown_name
from lanac.solver.problem import SelectedPlan, SelectionProblem, SelectionStatus
from lanac.solver.scip import solve


@dataclass(frozen=True)
class ParetoPoint:
    """The best plan at one limit.

    Attributes:
        limit: of the resource that is varied.
        status: how the search at this limit ended.
        plan: the plan, if one was found.
        price: score that one more unit of the resource saves, on average up to the next larger
            limit with a plan; None at the largest.
    """

    limit: float
    status: SelectionStatus
    plan: SelectedPlan | None
    price: float | None


def pareto(
    problem: SelectionProblem,
    resource: str,
    limits: Sequence[float],
    *,
    seed: int = 0,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
) -> tuple[ParetoPoint, ...]:
    """Solve for one plan at each limit of a resource; the other limits stay.

    Works from the largest limit down: a plan that is optimal for a limit and keeps a smaller one
    is optimal there too, and is not searched again.

    Args:
        problem: what to solve; its own limit of the resource, if any, is replaced.
        resource: the resource that is varied.
        limits: its upper limits, absolute, in any order.
        seed: see `solve`.
        time_limit_s: wall-clock time for all limits together.
        gap: see `solve`.

    Returns:
        One point for each distinct limit, ascending.

    Raises:
        SelectionError: the resource has no costs, or see `solve`.
    """
    if resource not in problem.costs:
        raise SelectionError(
            f"selection, pareto: {unknown_name('resource', resource, problem.costs)} "
            "Give a resource with costs."
        )
    deadline = time.perf_counter() + time_limit_s
    points: list[ParetoPoint] = []
    impossible = False
    for limit in sorted(set(limits), reverse=True):
        above = points[-1] if points else None
        known = above.plan if above and above.status is SelectionStatus.OPTIMAL else None
        if known and known.costs[resource] < limit:  # exact totals are rounded once: strictly less
            points.append(ParetoPoint(limit, SelectionStatus.OPTIMAL, known, 0.0))
            continue
        if impossible:
            points.append(ParetoPoint(limit, SelectionStatus.INFEASIBLE, None, None))
            continue
        at = replace(problem, limits={**problem.limits, resource: limit}, plan_count=1)
        left = max(deadline - time.perf_counter(), 0.001)
        answer = solve(at, seed=seed, time_limit_s=left, gap=gap)
        plan = answer.plans[0] if answer.plans else None
        impossible = answer.status is SelectionStatus.INFEASIBLE
        points.append(ParetoPoint(limit, answer.status, plan, _price(above, limit, plan)))
    return tuple(reversed(points))


def _price(above: ParetoPoint | None, limit: float, plan: SelectedPlan | None) -> float | None:
    if above is None or above.plan is None or plan is None:
        return None
    price = (plan.score - above.plan.score) / (above.limit - limit)
    return price if math.isfinite(price) else None
