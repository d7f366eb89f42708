"""Select: SCIP chooses one op per slot under the budget, K times (paper, Eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lanac.compilation import Compilation
from lanac.errors import InfeasibleBudgetError, SelectionError
from lanac.ir import TEACHER, OpSpec, Plan, Slot
from lanac.solver import SelectedPlan, Selection, SelectionProblem, SelectionStatus, solve
from lanac.targets import MEMORY, RESOURCES, TITLES, CostTable, format_cost


@dataclass(frozen=True)
class SelectPlans:
    """Finds K diverse plans, best predicted loss first.

    Attributes:
        plans: how many (K).
        overlap: largest share of slots in which two plans may agree (the paper's 0.7 N).
        time_limit_s: after this, what was found with its proven gap.
        exact_s: after this, further plans need to be proven only as good as `gap` says. The first
            is found in a fraction of a second; near-ties can make each of the others a minute's work.
        gap: how far from the best these may be.
    """

    plans: int = 16
    overlap: float = 0.7
    time_limit_s: float = 60.0
    exact_s: float = 15.0
    gap: float = 0.02
    name = "select_plans"
    needs = ("program", "pool", "costs", "scores")
    provides = ("plans",)

    def run(self, compilation: Compilation) -> Compilation:
        problem = selection_problem(compilation, self.plans, self.overlap)
        selection = self._solve(problem, compilation.seed)
        if selection.status is SelectionStatus.INFEASIBLE:
            raise InfeasibleBudgetError(infeasible(compilation, problem, selection))
        if not selection.plans:
            raise SelectionError(
                f"no plan was found within {self.time_limit_s:g} s; allow more time or a smaller pool"
            )
        _say_status(compilation, selection, self.plans)
        plans = tuple(to_plan(compilation, found) for found in selection.plans)
        return compilation.having(plans=plans)

    def _solve(self, problem: SelectionProblem, seed: int) -> Selection:
        """Exactly as long as that is quick, then with a gap from where it stopped."""
        exact_s = min(self.exact_s, self.time_limit_s)
        exact = solve(problem, seed=seed, time_limit_s=exact_s)
        left_s = self.time_limit_s - exact.seconds
        unfinished = exact.status in (SelectionStatus.FEASIBLE, SelectionStatus.TIME_LIMIT)
        if not unfinished or left_s <= 0:
            return exact
        found = tuple(plan.choices for plan in exact.plans)
        rest = replace(problem, plan_count=problem.plan_count - len(found), earlier=found)
        more = solve(rest, seed=seed, time_limit_s=left_s, gap=self.gap)
        if not exact.plans:
            return more
        status = more.status
        if status in (SelectionStatus.INFEASIBLE, SelectionStatus.FEWER_PLANS):
            status = SelectionStatus.FEWER_PLANS
        else:
            status = SelectionStatus.FEASIBLE  # no plan is proven to be the very best any more
        return replace(exact, status=status, plans=exact.plans + more.plans)


def to_plan(compilation: Compilation, found: SelectedPlan) -> Plan:
    """What the solver found, as ops with all their costs."""
    slots, pool = compilation.need("program").slots, compilation.need("pool")
    ops = tuple(pool[slot.name][choice] for slot, choice in zip(slots, found.choices, strict=True))
    return Plan(ops, found.score, compilation.need("costs").totals(slots, ops), found.gap)


def selection_problem(compilation: Compilation, plans: int, overlap: float) -> SelectionProblem:
    """The problem of Eq. 4 for a compilation's pool, scores, costs and budget.

    Peak memory is a maximum, not a sum: an op above that limit is forbidden by itself.
    """
    slots: tuple[Slot, ...] = compilation.need("program").slots
    pool, costs, scores = (compilation.need(name) for name in ("pool", "costs", "scores"))
    memory = tightened_limits(compilation).get(MEMORY, math.inf)
    constants = summed_constants(costs)
    too_large = tuple(
        ((place, choice),)
        for place, slot in enumerate(slots)
        for choice, op in enumerate(pool[slot.name])
        if costs.costs[MEMORY][slot.name][op] > memory
    )
    fixed = compilation.restrictions.fixed
    free = sum(slot.name not in fixed for slot in slots)
    # In slots that the user has fixed all plans agree.
    most = math.floor(overlap * free) + len(slots) - free
    return SelectionProblem(
        slots=tuple(slot.name for slot in slots),
        ops=tuple(tuple(map(str, pool[slot.name])) for slot in slots),
        scores=tuple(tuple(scores[slot.name][op] for op in pool[slot.name]) for slot in slots),
        costs={
            resource: tuple(
                tuple(costs.costs[resource][slot.name][op] for op in pool[slot.name])
                for slot in slots
            )
            for resource in constants
        },
        constants=constants,
        limits=summed_limits(compilation),
        plan_count=plans,
        max_overlap=max(0, min(len(slots) - 1, most)),
        forbidden=too_large,
        fixed={
            place: _place(slot, fixed[slot.name], pool[slot.name])
            for place, slot in enumerate(slots)
            if slot.name in fixed
        },
        own=tuple(pool[slot.name].index(TEACHER) for slot in slots),
        max_changed=compilation.restrictions.max_changed,
    )


def _place(slot: Slot, op: OpSpec, ops: Sequence[OpSpec]) -> int:
    if op not in ops:
        raise SelectionError(
            f"--fix {slot.name}={op}: this op failed and was dropped, as said above; fix another"
        )
    return ops.index(op)


def summed_limits(compilation: Compilation) -> dict[str, float]:
    """The limits on resources that add up over slots, in absolute units."""
    limits = tightened_limits(compilation)
    limits.pop(MEMORY, None)
    return limits


def summed_constants(costs: CostTable) -> dict[str, float]:
    """What lies outside the slots, of the resources that add up."""
    summed = [resource for resource in RESOURCES if resource in costs.costs and resource != MEMORY]
    return {resource: costs.constants[resource] for resource in summed}


def tightened_limits(compilation: Compilation) -> dict[str, float]:
    """The budget in absolute units, lowered where finalists were slower than predicted."""
    limits = compilation.budget.absolute(compilation.need("costs").teacher)
    return {
        resource: limit * compilation.tightening.get(resource, 1.0)
        for resource, limit in limits.items()
    }


def infeasible(compilation: Compilation, problem: SelectionProblem, selection: Selection) -> str:
    """The message for a budget that no plan meets."""
    teacher: Mapping[str, float] = compilation.need("costs").teacher
    parts = [
        f"{TITLES[resource]}: the smallest reachable is {format_cost(resource, smallest)} "
        f"({smallest / teacher[resource]:.3f}x), the limit is "
        f"{format_cost(resource, problem.limits[resource])} "
        f"({problem.limits[resource] / teacher[resource]:.3f}x)"
        for resource, smallest in selection.smallest.items()
        if resource in problem.limits and smallest > problem.limits[resource]
    ]
    parts += _memory_shortage(compilation)
    parts = parts or [
        f"{', '.join(TITLES.get(name, name) for name in selection.binding)}: not reachable together"
    ]
    tightened = " with the margin that measured networks need" * bool(compilation.tightening)
    if compilation.need("costs").prediction is not None:
        tightened = " with the margin that the error of predicted latencies needs"
    return (
        f"budget {compilation.budget} cannot be met{tightened}{_restricted(compilation)}. "
        f"{'; '.join(parts)}. Give a larger budget, or a larger pool (--pool)."
    )


def _restricted(compilation: Compilation) -> str:
    """What else the user asked for, which may be the reason."""
    restrictions = compilation.restrictions
    parts = [f"{len(restrictions.fixed)} of the slots fixed or kept"] * bool(restrictions.fixed)
    if restrictions.max_changed is not None:
        parts.append(f"--max-changed {restrictions.max_changed}")
    return f" with {' and '.join(parts)}" if parts else ""


def _memory_shortage(compilation: Compilation) -> list[str]:
    """What a limit on peak memory lacks: no part of the solver's problem, but forbidden ops."""
    limit = tightened_limits(compilation).get(MEMORY, math.inf)
    costs: CostTable = compilation.need("costs")
    smallest = max(
        min(costs.costs[MEMORY][name][op] for op in ops)
        for name, ops in compilation.need("pool").items()
    )
    if smallest <= limit:
        return []
    teacher = costs.teacher[MEMORY]
    return [
        f"{TITLES[MEMORY]}: the smallest reachable is {format_cost(MEMORY, smallest)} "
        f"({smallest / teacher:.3f}x), the limit is {format_cost(MEMORY, limit)} "
        f"({limit / teacher:.3f}x)"
    ]


def _say_status(compilation: Compilation, selection: Selection, wanted: int) -> None:
    count = len(selection.plans)
    if selection.status is SelectionStatus.FEWER_PLANS:
        compilation.instruments.say(f"only {count} of {wanted} plans exist that differ enough")
    elif selection.status is SelectionStatus.FEASIBLE:
        gap = max(plan.gap for plan in selection.plans)
        compilation.instruments.say(
            f"{count} of {wanted} plans, proven to be within {gap:.2%} of the best"
        )
