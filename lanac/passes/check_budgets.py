"""Checks budgets against the costs, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lanac.compilation import Compilation
from lanac.passes.select_plans import SelectPlans
from lanac.targets import Budget


@dataclass(frozen=True)
class CheckBudgets:
    """Raises where no choice of ops can meet a budget: hours of training would be lost.

    Attributes:
        budgets: all budgets of the run.
    """

    budgets: tuple[Budget, ...]
    name = "check_budgets"
    needs = ("program", "pool", "costs")
    provides = ()

    def run(self, compilation: Compilation) -> Compilation:
        pool = compilation.need("pool")
        unknown = {name: dict.fromkeys(ops, 0.0) for name, ops in pool.items()}
        for budget in self.budgets:
            trial = replace(compilation, budget=budget, scores=unknown)
            SelectPlans(plans=1).run(trial)
        return compilation
