"""SCIP behind the selection problem; the only file that imports pyscipopt."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from lanac.errors import SelectionError
from lanac.solver.explain import why_infeasible
from lanac.solver.problem import (
    Pair,
    SelectedPlan,
    Selection,
    SelectionProblem,
    SelectionStatus,
)
from lanac.solver.reduce import Cut, Knapsack, Reduced, exact_total, reduce_problem
from lanac.solver.search import End, Model, Run, Search, Step
from lanac.solver.validate import check_solve_options
from lanac.solver.verify import verify_plan

_SLACK = 100.0  # right side of a scaled limit: SCIP's 1e-7 in the LP is then 1e-9 of the slack
_TINY = 1e-7  # coefficients below are noise to SCIP; the exact check stands in for them
_ENDS = {
    "optimal": End.OPTIMAL,
    "gaplimit": End.GAP,
    "infeasible": End.NONE,
    "inforunbd": End.NONE,  # binary variables are bounded, so it is infeasible
    "timelimit": End.TIME,
}


def solve(
    problem: SelectionProblem, *, seed: int = 0, time_limit_s: float = 60.0, gap: float = 0.0
) -> Selection:
    """Solve LANA's Eq. 4 for K plans, each the best that respects the earlier ones.

    Args:
        problem: what to solve.
        seed: of SCIP's random choices; equal seeds give equal plans unless the time runs out.
        time_limit_s: wall-clock time for the whole sequence.
        gap: a step may end when its plan is proven this close, see `SelectedPlan.gap`.

    Returns:
        The plans, each checked by `verify_plan`, and how the search ended.

    Raises:
        SelectionError: an option is out of range, pyscipopt is missing or SCIP failed.
    """
    started = time.perf_counter()
    check_solve_options(seed, time_limit_s, gap)
    model_class = _model_class()
    deadline = started + time_limit_s
    reduced = reduce_problem(problem)
    plans: list[SelectedPlan] = []
    step = Step(None, None, timed_out=False)
    if reduced is not None:
        search = Search(reduced, _Scip(model_class, reduced, seed, gap), deadline)
        cuts = [Cut(pairs, len(pairs) - 1) for pairs in problem.forbidden]
        for _ in range(problem.plan_count):
            step = search.best_plan(cuts)
            if step.choices is None:
                break
            plan = _to_plan(problem, reduced, step)
            verify_plan(problem, plan, plans)
            plans.append(plan)
            cuts.append(Cut(tuple(enumerate(plan.choices)), problem.overlap_limit))
            if step.timed_out:
                break
    status = _status(plans, step)
    smallest: dict[str, float] = {}
    binding: tuple[str, ...] = ()
    if status is SelectionStatus.INFEASIBLE:
        smallest, binding = why_infeasible(
            problem,
            lambda alone: solve(
                alone, seed=seed, time_limit_s=max(deadline - time.perf_counter(), 0.01)
            ),
        )
    seconds = time.perf_counter() - started
    return Selection(status, tuple(plans), smallest, binding, seconds)


def _model_class() -> Any:
    try:
        from pyscipopt import Model
    except ImportError as error:
        raise SelectionError(
            "selection: expected the Python package pyscipopt (the SCIP solver), got an import "
            f"error ({error}). Install it with `pip install pyscipopt`."
        ) from error
    return Model


def _to_plan(problem: SelectionProblem, reduced: Reduced, step: Step) -> SelectedPlan:
    """Totals are summed exactly and rounded once, so that none rounds to above its limit."""
    choices = step.choices or ()
    score = exact_total(problem.scores, choices)
    gap = 0.0
    if step.bound is not None:
        bound = Fraction(reduced.least, reduced.unit) + Fraction(step.bound)
        if score > bound:
            gap = float((score - bound) / max(abs(score), abs(bound)))
    totals = {
        name: float(Fraction(problem.constants.get(name, 0.0)) + exact_total(table, choices))
        for name, table in problem.costs.items()
    }
    return SelectedPlan(choices, float(score), totals, gap)


def _status(plans: Sequence[SelectedPlan], last: Step) -> SelectionStatus:
    if last.timed_out:
        return SelectionStatus.FEASIBLE if plans else SelectionStatus.TIME_LIMIT
    if last.choices is None:
        return SelectionStatus.FEWER_PLANS if plans else SelectionStatus.INFEASIBLE
    proven = all(plan.gap == 0.0 for plan in plans)
    return SelectionStatus.OPTIMAL if proven else SelectionStatus.FEASIBLE


class _Scip:
    """Calls SCIP for one sequence.

    Args:
        model_class: pyscipopt's Model.
        reduced: the problem.
        seed: of SCIP's random choices.
        gap: relative gap at which a call may end.
    """

    def __init__(self, model_class: Any, reduced: Reduced, seed: int, gap: float) -> None:
        self.model_class, self.reduced, self.seed, self.gap = model_class, reduced, seed, gap

    def __call__(self, model: Model) -> Run:
        scip = self.model_class()
        _set_params(scip, self.seed, min(model.seconds, 1e20), self.gap)
        offset = 0.0
        if self.gap > 0:  # a relative gap means the score itself, not the regret
            offset = self.reduced.least / self.reduced.unit
            scip.addObjoffset(offset / model.scale)
        variables = {
            pair: scip.addVar(vtype="B", obj=score) for pair, score in model.scores.items()
        }
        slots: list[list[tuple[float, Any]]] = [[] for _ in self.reduced.allowed]
        for (slot, _), variable in variables.items():
            slots[slot].append((1.0, variable))
        if not all(slots):
            return Run(End.NONE, [], math.inf)
        for terms in slots:
            _add_row(scip, terms, 1, equal=True)
        for knapsack in self.reduced.knapsacks:
            _add_knapsack(scip, variables, knapsack)
        for cut in model.cuts:
            present = [(1.0, variables[pair]) for pair in cut.pairs if pair in variables]
            if len(present) > cut.most:
                _add_row(scip, present, cut.most)
        scip.optimize()
        end = _end(scip.getStatus())
        if end is End.NONE:
            return Run(end, [], math.inf)
        found = [_choices(scip, solution, variables) for solution in scip.getSols()]
        return Run(end, found, max(0.0, scip.getDualbound() * model.scale - offset))


def _end(status: str) -> End:
    if status == "userinterrupt":  # SCIP has caught the Ctrl-C
        raise KeyboardInterrupt
    if status not in _ENDS:
        raise SelectionError(
            f"selection: expected SCIP to end with one of {', '.join(sorted(_ENDS))}, "
            f"got {status!r}. Try another seed, and report this if it stays."
        )
    return _ENDS[status]


def _set_params(model: Any, seed: int, time_limit_s: float, gap: float) -> None:
    model.hideOutput()
    model.setParam("randomization/randomseedshift", seed)
    model.setParam("parallel/maxnthreads", 1)
    model.setParam("lp/threads", 1)
    model.setParam("limits/time", time_limit_s)
    model.setParam("limits/gap", gap)
    # Tighter than 1e-7, SCIP asks SoPlex for more digits than it has, and SoPlex prints that.
    model.setParam("numerics/feastol", 1e-7)


def _add_knapsack(model: Any, variables: Mapping[Pair, Any], knapsack: Knapsack) -> None:
    if knapsack.slack == 0:  # only ops without excess are left
        return
    terms = [
        (_SLACK * (knapsack.excess[slot][op] / knapsack.slack), variable)
        for (slot, op), variable in variables.items()
    ]
    _add_row(model, [term for term in terms if term[0] >= _TINY], _SLACK)


def _add_row(
    model: Any, terms: Sequence[tuple[float, Any]], most: float, *, equal: bool = False
) -> None:
    from pyscipopt import quicksum

    if not terms:
        return
    total = quicksum(coefficient * variable for coefficient, variable in terms)
    model.addCons(total == most if equal else total <= most)


def _choices(model: Any, solution: Any, variables: Mapping[Pair, Any]) -> tuple[int, ...]:
    """The op with the largest value in each slot: integral within SCIP's tolerance."""
    best: dict[int, tuple[float, int]] = {}
    for (slot, op), variable in variables.items():
        value = model.getSolVal(solution, variable)
        if slot not in best or value > best[slot][0]:
            best[slot] = (value, op)
    return tuple(op for _, op in best.values())
