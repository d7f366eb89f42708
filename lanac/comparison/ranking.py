"""Figure 4 of the paper for the user's own model: does the sum of scores order whole networks?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lanac.compilation import Compilation
from lanac.errors import CommandError
from lanac.ir import TEACHER, Plan
from lanac.passes import SelectPlans, run_passes
from lanac.passes.plan_judge import PlanJudge
from lanac.passes.search_plans import first_plan
from lanac.passes.select_plans import selection_problem, to_plan
from lanac.search import Space
from lanac.search.random_plans import draw_plans
from lanac.settings import ComparisonSettings, Settings
from lanac.solver import SelectionProblem
from lanac.solver.reduce import allowed_ops
from lanac.targets import TITLES, Budget, Limit

BUDGETS = 5
"""Budgets that plans are drawn and selected at."""
_EDGE = 0.1
"""How far the smallest and the largest budget are from the ends of what can be reached."""
SETS = (1, 10, 100)
"""Numbers of selected plans (K) whose best one is shown."""


@dataclass(frozen=True)
class Judged:
    """A plan with its measured loss, before finetuning."""

    plan: Plan
    loss: float


@dataclass(frozen=True)
class BudgetRanking:
    """Plans under one budget.

    Attributes:
        ratio: the budget, as a share of the teacher's cost.
        drawn: plans drawn evenly from all that keep it.
        selected: SCIP's plans, the best predicted loss first.
        best: lowest loss of the first K selected plans, by K; only for as many as there are.
    """

    ratio: float
    drawn: tuple[Judged, ...]
    selected: tuple[Judged, ...]
    best: Mapping[int, float]


@dataclass(frozen=True)
class Ranking:
    """How well predicted changes of the loss order measured losses.

    Attributes:
        prepared: what plans were drawn and selected from.
        resource: what the budgets limit.
        images: training samples that losses were measured on, other ones than the scores.
        teacher_loss: the teacher's on these.
        budgets: the smallest first.
        tau_drawn: Kendall's tau between predicted and measured loss over all drawn plans.
        tau_selected: the same over the selected plans of all budgets, as the paper has it.
    """

    prepared: Compilation
    resource: str
    images: int
    teacher_loss: float
    budgets: tuple[BudgetRanking, ...]
    tau_drawn: float
    tau_selected: float


def compare_ranking(
    prepared: Compilation, settings: Settings, comparison: ComparisonSettings
) -> Ranking:
    """Draws and selects plans at several budgets and measures their losses.

    Drawn plans use nine tenths of their budget: otherwise the budgets would differ in name alone.

    The budgets lie between the smallest that can be reached and the teacher's own cost, of the
    first resource that the user's budget limits; its other limits hold everywhere.

    Raises:
        InfeasibleBudgetError: the other limits leave no plan.
    """
    problem = selection_problem(prepared, 1, 1.0)
    limited = [name for name in prepared.budget.resources if name in problem.costs]
    if not limited:
        raise CommandError(
            f"budget {prepared.budget}: a ranking needs a budget of latency, params or flops"
        )
    resource, teacher = limited[0], prepared.need("costs").teacher
    ratios = budget_ratios(problem, resource, teacher[resource])
    counts = [len(part) for part in np.array_split(range(comparison.random_plans), len(ratios))]
    found = []
    for number, (ratio, count) in enumerate(zip(ratios, counts, strict=True)):
        at = replace(prepared, budget=_budget_of(prepared, resource, ratio), tightening={})
        here = selection_problem(at, 1, 1.0)
        space = Space(here, first_plan(at, here))
        drawn = [
            to_plan(at, space.verified(plan))
            for plan in draw_plans(space, count, prepared.seed + number)
        ]
        selected = run_passes(at, [SelectPlans(comparison.ranking_plans)]).need("plans")
        found.append((ratio, drawn, selected))
    total = sum(len(drawn) + len(selected) for _, drawn, selected in found)
    with prepared.instruments.progress("judging plans", total) as advance:
        # Another seed draws other images than the scores were measured on.
        other = replace(prepared, seed=prepared.seed + 1)
        judge = PlanJudge(other, comparison.search_images, settings.batch_size, advance)
        budgets = tuple(
            _budget_ranking(ratio, _judged(judge, drawn), _judged(judge, selected))
            for ratio, drawn, selected in found
        )
    slots = prepared.need("program").slots
    return Ranking(
        prepared,
        resource,
        judge.images,
        judge.losses_of([(TEACHER,) * len(slots)])[0],
        budgets,
        _tau([item for budget in budgets for item in budget.drawn]),
        _tau([item for budget in budgets for item in budget.selected]),
    )


def budget_ratios(problem: SelectionProblem, resource: str, teacher: float) -> list[float]:
    """Evenly spaced shares of the teacher's cost that plans can reach."""
    smallest = problem.constants.get(resource, 0.0) + sum(
        min(row[op] for op in pool)
        for row, pool in zip(problem.costs[resource], allowed_ops(problem), strict=True)
    )
    low = min(smallest / teacher, 1.0)
    span = 1 - low
    ends = (low + _EDGE * span, 1 - _EDGE * span)
    return [float(ratio) for ratio in np.linspace(*ends, BUDGETS)]


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where both have the same order, -1 where it is reversed; nan without one."""
    agree = tied_first = tied_second = 0
    pairs = list(itertools.combinations(zip(first, second, strict=True), 2))
    for (a, b), (c, d) in pairs:
        one, two = (a > c) - (a < c), (b > d) - (b < d)
        agree += one * two
        tied_first += one == 0
        tied_second += two == 0
    product = (len(pairs) - tied_first) * (len(pairs) - tied_second)
    return agree / math.sqrt(product) if product else math.nan


def _tau(plans: Sequence[Judged]) -> float:
    return kendall_tau([item.plan.score for item in plans], [item.loss for item in plans])


def _budget_of(prepared: Compilation, resource: str, ratio: float) -> Budget:
    """The user's budget with another limit on one resource."""
    text = f"{TITLES[resource]}={ratio:.3f}x"
    return Budget(
        tuple(
            Limit(resource, ratio, True, text) if limit.resource == resource else limit
            for limit in prepared.budget.limits
        )
    )


def _judged(judge: PlanJudge, plans: Sequence[Plan]) -> tuple[Judged, ...]:
    losses = judge.losses_of([plan.ops for plan in plans])
    return tuple(
        Judged(plan, loss if math.isfinite(loss) else math.inf)
        for plan, loss in zip(plans, losses, strict=True)
    )


def _budget_ranking(
    ratio: float, drawn: tuple[Judged, ...], selected: tuple[Judged, ...]
) -> BudgetRanking:
    best = {
        count: min(item.loss for item in selected[:count])
        for count in SETS
        if count <= len(selected)
    }
    return BudgetRanking(ratio, drawn, selected, best)
