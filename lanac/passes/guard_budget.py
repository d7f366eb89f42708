"""Guard: how far below a latency budget plans are selected, so that they meet it in reality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lanac.compilation import Compilation
from lanac.errors import InfeasibleBudgetError
from lanac.ir import Plan
from lanac.passes.select_plans import SelectPlans
from lanac.targets import LATENCY
from lanac.targets.predicted import (
    PerturbedTables,
    judge_plans,
    safety_factor,
    way_of,
)

START = 0.95
"""Share of a latency budget that plans are selected for: measurements scatter by a few percent."""

SAFE = 0.8
"""Probability with which plans with predicted latencies have to meet a budget."""

_ROUNDS = 5
_ONE_SIDED = 0.8416
"""Below so many standard deviations above the mean lie four of five values."""


@dataclass(frozen=True)
class GuardBudget:
    """Sets the first `tightening` of a latency budget.

    Where finalists are timed, it leaves room for what measurements scatter. Where latencies are
    predicted, nothing will be timed, and a minimiser picks the plans whose errors are in their
    favour. So the best plan is looked at under many cost tables that differ by the errors which the
    prediction is known to make, and the budget is lowered until a plan like it meets it in four of
    five of them (`lanac.targets.predicted.perturb`). Where no plan does, the likeliest one has to do.

    Attributes:
        probability: of meeting the budget.
    """

    probability: float = SAFE
    name = "guard_budget"
    needs = ("program", "pool", "costs", "scores")
    provides = ()

    def run(self, compilation: Compilation) -> Compilation:
        if LATENCY not in compilation.budget.resources:
            return compilation
        costs = compilation.need("costs")
        if costs.prediction is None:
            return replace(compilation, tightening={LATENCY: START})
        probability, factor = self._safest(compilation)
        compilation.instruments.say(
            f"plans are selected for {factor:.3f} of the budget: predictions are uncertain, and the "
            f"budget is to be met with a probability of {self.probability:.0%}"
            + f"; the likeliest plan does with {probability:.0%}"
            * (probability < self.probability)
        )
        return replace(compilation, tightening={LATENCY: factor})

    def _safest(self, compilation: Compilation) -> tuple[float, float]:
        """Probability that the best plan meets the budget, and the share to select for."""
        factor = 1.0
        tried: list[tuple[float, float]] = []
        for _ in range(_ROUNDS):
            narrowed = replace(compilation, tightening={LATENCY: factor})
            try:
                (plan,) = SelectPlans(plans=1).run(narrowed).need("plans")
            except InfeasibleBudgetError:
                if not tried:
                    raise
                factor = math.sqrt(factor * tried[-1][1])  # between this and what had a plan
                continue
            (probability,) = meeting_probabilities(narrowed, [plan])
            tried.append((probability, factor))
            if probability >= self.probability:
                break
            factor = min(self._factor(narrowed, plan), 0.99 * factor)
        return max(tried)

    def _factor(self, compilation: Compilation, plan: Plan) -> float:
        names = [slot.name for slot in compilation.need("program").slots]
        factor = safety_factor(
            dict(zip(names, plan.ops, strict=True)), drawn_tables(compilation), self.probability
        )
        return factor * math.exp(-_ONE_SIDED * _shared_spread(compilation))


def drawn_tables(compilation: Compilation) -> PerturbedTables:
    """Cost tables that differ by the errors of the prediction."""
    errors = way_of(compilation.target).errors
    return PerturbedTables(compilation.need("costs").prediction, errors, seed=compilation.seed)


def meeting_probabilities(compilation: Compilation, plans: Sequence[Plan]) -> list[float]:
    """Share of the drawn tables in which each plan meets the latency budget."""
    names = [slot.name for slot in compilation.need("program").slots]
    (limit,) = [item for item in compilation.budget.limits if item.resource == LATENCY]
    teacher = compilation.need("costs").teacher[LATENCY]
    ratio = limit.value if limit.relative else limit.value / teacher
    ratio *= math.exp(-_ONE_SIDED * _shared_spread(compilation))
    ops = [dict(zip(names, plan.ops, strict=True)) for plan in plans]
    judged = judge_plans(ops, drawn_tables(compilation), ratio=ratio)
    return [plan.probability for plan in judged]


def _shared_spread(compilation: Compilation) -> float:
    """What an absolute budget has to fear beside errors of kernels: a scale that is wrong for all.

    It cancels in a budget relative to the teacher.
    """
    (limit,) = [item for item in compilation.budget.limits if item.resource == LATENCY]
    if limit.relative:
        return 0.0
    teacher = compilation.need("costs").prediction.teacher
    return math.sqrt(max(teacher.spread**2 - teacher.ratio_spread**2 / 2, 0.0))
