"""Relax: what finalists leave of a latency budget is given back to the selection."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace

from lanac.compilation import Compilation, Finalist
from lanac.passes.base import Pass
from lanac.passes.evaluate_plans import EvaluatePlans
from lanac.passes.guard_budget import START
from lanac.passes.time_finalists import TimeFinalists
from lanac.targets import LATENCY

_ROUNDS = 2


@dataclass(frozen=True)
class RelaxBudget:
    """Selects again where finalists were measured far below the budget.

    The sum of parts that is too high for whole networks makes students smaller than they need be. By
    how much it is too high the finalists have shown; the selection gets that much more, and the plan
    with the lowest loss of all that were measured to meet the budget is chosen.

    Attributes:
        search: finds plans.
        evaluation: evaluates them.
        timing: times the finalists among them.
        least: share of the budget that has to be left for it to be worth another round.
    """

    search: Pass
    evaluation: EvaluatePlans = field(default_factory=EvaluatePlans)
    timing: TimeFinalists = field(default_factory=TimeFinalists)
    least: float = 0.05
    name = "relax_budget"
    needs = ("program", "pool", "costs", "scores", "weights", "plans", "finalists", "chosen")
    provides = ("plans", "finalists")

    def run(self, compilation: Compilation) -> Compilation:
        relaxed = self._relaxed(compilation)
        if relaxed is None:
            return compilation
        left = 1 - self._used(compilation)
        compilation.instruments.say(
            f"the best finalist leaves {left:.0%} of the latency budget: selecting again for what is "
            "left"
        )
        again = replace(compilation, tightening={**compilation.tightening, LATENCY: relaxed})
        for _ in range(_ROUNDS):
            if again.tightening[LATENCY] <= compilation.tightening[LATENCY]:
                break
            for step in (self.search, self.evaluation, self.timing):
                again = step.run(again)
            if any(item.fits for item in again.need("finalists")):
                return _joined(compilation, again)
        return compilation

    def _used(self, compilation: Compilation) -> float:
        """Share of the latency budget that the chosen finalist was measured at."""
        limit = compilation.budget.absolute(compilation.need("costs").teacher)[LATENCY]
        return float(compilation.need("chosen").costs[LATENCY] / limit)

    def _relaxed(self, compilation: Compilation) -> float | None:
        """The tightening that what was measured speaks for; None where nothing is to be gained."""
        timed = [item for item in compilation.need("finalists") if item.latency is not None]
        if LATENCY not in compilation.budget.resources or not timed:
            return None
        if self._used(compilation) > 1 - self.timing.margin - self.least:
            return None
        ratios = [item.plan.costs[LATENCY] / item.costs[LATENCY] for item in timed]
        relaxed = START * statistics.median(ratios)
        # What was predicted right and still leaves much, leaves it because no plan lies between.
        return relaxed if relaxed > (1 + self.least) * compilation.tightening[LATENCY] else None


def _joined(before: Compilation, after: Compilation) -> Compilation:
    """What both found, the plan with the lowest loss of those that meet the budget chosen."""
    plans = {plan.ops: plan for plan in (*before.need("plans"), *after.need("plans"))}
    found: dict[object, Finalist] = {}
    for item in (*after.need("finalists"), *before.need("finalists")):
        found.setdefault(item.plan.ops, item)
    finalists = tuple(sorted(found.values(), key=lambda item: item.loss))
    chosen = next(item for item in finalists if item.fits)
    return after.having(plans=tuple(plans.values()), finalists=finalists, chosen=chosen)
