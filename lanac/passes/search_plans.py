"""Search: plans by another method than SCIP, for comparison (paper, Table 5)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lanac.compilation import Compilation
from lanac.errors import CommandError, InfeasibleBudgetError, SelectionError, unknown_name
from lanac.ir import Plan
from lanac.passes.base import Pass
from lanac.passes.plan_judge import PlanJudge, cost_clock
from lanac.passes.select_plans import SelectPlans, infeasible, selection_problem, to_plan
from lanac.search import METHODS, SearchOptions, Space, cheapest_problem
from lanac.solver import SelectedPlan, SelectionProblem, SelectionStatus, solve

SCIP = "scip"
SEARCHES = (SCIP, *METHODS)
"""Every way of finding plans."""


def check_search(name: str, option: str = "--search") -> None:
    """Raises CommandError for a method that does not exist."""
    if name not in SEARCHES:
        raise CommandError(f"{option} {name!r}: {unknown_name('search method', name, SEARCHES)}")


def plan_search(method: str, plans: int, evaluations: int) -> Pass:
    """The pass that finds plans by a method."""
    if method == SCIP:
        return SelectPlans(plans)
    return SearchPlans(method, SearchOptions(evaluations, plans))


@dataclass(frozen=True)
class Found:
    """What a search gave, and what it cost.

    Attributes:
        plans: the best first, each verified against the budget in exact arithmetic.
        evaluations: plans judged, or gradient steps.
        seconds: CPU-seconds (wall on a GPU), those of a run that was killed before included.
    """

    plans: tuple[Plan, ...]
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class SearchPlans:
    """Finds plans under the budget by judging whole networks.

    Attributes:
        method: a name of `lanac.search.METHODS`.
        options: how much work.
        images: training images that a plan is judged on.
        batch: images per forward pass; a gradient step takes a quarter of it.
    """

    method: str
    options: SearchOptions = field(default_factory=SearchOptions)
    images: int = 256
    batch: int = 128
    name = "search_plans"
    needs = ("program", "pool", "costs", "weights", "scores")
    provides = ("plans",)

    def run(self, compilation: Compilation) -> Compilation:
        found = self.search(compilation)
        compilation.instruments.say(
            f"{self.method}: {found.evaluations} evaluations, {found.seconds:.1f} s; "
            f"{len(found.plans)} plans"
        )
        return compilation.having(plans=found.plans)

    def search(self, compilation: Compilation) -> Found:
        """Searches; nothing is said.

        Raises:
            InfeasibleBudgetError: no plan meets the budget.
            SelectionError: none was found in time.
        """
        clock = cost_clock(compilation.device)
        began = clock()
        problem = selection_problem(compilation, 1, 1.0)
        space = Space(problem, first_plan(compilation, problem))
        with compilation.instruments.progress(
            f"searching plans ({self.method})", self.options.evaluations
        ) as advance:
            judge = PlanJudge(compilation, self.images, self.batch, advance)
            chosen = METHODS[self.method](space, judge, self.options, compilation.seed)
        found = [space.verified(choices) for choices in chosen]
        seconds = clock() - began - judge.spent + judge.seconds
        best = solve(problem, seed=compilation.seed)
        plans = tuple(to_plan(compilation, _with_gap(plan, best.plans)) for plan in found)
        return Found(plans, judge.asked, seconds)


def first_plan(compilation: Compilation, problem: SelectionProblem) -> tuple[int, ...]:
    """The cheapest plan, to start from.

    Raises:
        InfeasibleBudgetError: there is none.
        SelectionError: none was found in time.
    """
    selection = solve(cheapest_problem(problem), seed=compilation.seed)
    if selection.status is SelectionStatus.INFEASIBLE:
        raise InfeasibleBudgetError(infeasible(compilation, problem, selection))
    if not selection.plans:
        raise SelectionError("no plan was found within 60 s; use a smaller pool (--pool)")
    return selection.plans[0].choices


def _with_gap(plan: SelectedPlan, best: tuple[SelectedPlan, ...]) -> SelectedPlan:
    """With how far its predicted score is from the best one, as for plans of SCIP."""
    if not best or plan.score <= best[0].score:
        return plan
    bound = best[0].score
    return replace(plan, gap=(plan.score - bound) / max(abs(plan.score), abs(bound)))
