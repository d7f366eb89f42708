"""SCIP behind the selection problem; the only file that imports pyscipopt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanac.errors import SelectionError
from lanac.solver.explain import why_infeasible
from lanac.solver.listing import Columns
from lanac.solver.options import check_method, check_solve_options
from lanac.solver.problem import (
    Pair,
    SelectedPlan,
    Selection,
    SelectionProblem,
    SelectionStatus,
)
from lanac.solver.reduce import (
    Cut,
    Knapsack,
    Reduced,
    exact_score,
    exact_total,
    first_cuts,
    reduce_problem,
)
from lanac.solver.search import End, Model, Run, Search, Step, one_by_one
from lanac.solver.tree import Tree, tree_steps
from lanac.solver.verify import verify_plan

_SLACK = 100.0  # right side of a scaled limit: SCIP's 1e-7 in the LP is then 1e-9 of the slack
_TINY = 1e-7  # coefficients below are noise to SCIP; the exact check stands in for them
_PENALTY = 300.0  # of breaking a row of the relaxation by 1, where the largest regret is 100
_ENDS = {
    "optimal": End.OPTIMAL,
    "gaplimit": End.GAP,
    "infeasible": End.NONE,
    "inforunbd": End.NONE,  # binary variables are bounded, so it is infeasible
    "timelimit": End.TIME,
}


def solve(
    problem: SelectionProblem,
    *,
    seed: int = 0,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
    method: str = "tree",
) -> Selection:
    """Solve LANA's Eq. 4 for K plans, each the best that respects the earlier ones.

    Args:
        problem: what to solve.
        seed: of SCIP's random choices; equal seeds give equal plans unless the time runs out.
        time_limit_s: wall-clock time for the whole sequence.
        gap: a step may end when its plan is proven this close, see `SelectedPlan.gap`.
        method: "tree", one tree for all plans over SCIP's linear relaxations; or "scip", one call
            of SCIP for each plan, the reference. Pair terms always go to SCIP.

    Returns:
        The plans, each checked by `verify_plan`, and how the search ended.

    Raises:
        SelectionError: an option is out of range, pyscipopt is missing or SCIP failed.
    """
    started = time.perf_counter()
    check_solve_options(seed, time_limit_s, gap)
    check_method(method)
    model_class = _model_class()
    deadline = started + time_limit_s
    reduced = reduce_problem(problem)
    plans: list[SelectedPlan] = []
    steps = [Step(None, None, timed_out=False)]
    if reduced is not None:
        cuts, overlap = first_cuts(problem), problem.overlap_limit
        search = Search(reduced, _Scip(model_class, reduced, seed, gap), deadline)
        if method == "scip" or reduced.pairs:
            steps = one_by_one(search, cuts, problem.plan_count, overlap)
        else:
            near = _near(reduced, gap) if gap > 0 else None
            tree = Tree(reduced, cuts, overlap, _Linear, near, seed, deadline)
            steps = tree_steps(tree, search, problem.plan_count)
        for step in steps:
            if step.choices is not None:
                plan = _to_plan(problem, reduced, step)
                verify_plan(problem, plan, plans)
                plans.append(plan)
    status = _status(plans, steps[-1])
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
    score = exact_score(problem, choices)
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
        """One call; with presolving, SCIP 10 was seen to end with a plan that breaks a row."""
        run = self._run(model, presolve=True)
        if any(_breaks(cut, choices) for choices in run.found for cut in model.cuts):
            run = self._run(model, presolve=False)
        kept = [c for c in run.found if not any(_breaks(cut, c) for cut in model.cuts)]
        if run.found and (not kept or kept[0] != run.found[0]):
            raise SelectionError(
                "selection: expected SCIP to keep every row of its problem, got a plan that breaks "
                "one, also without presolving. Try another seed, and report this if it stays."
            )
        return Run(run.end, kept, run.bound)

    def _run(self, model: Model, *, presolve: bool) -> Run:
        scip = self.model_class()
        _set_params(scip, self.seed, min(model.seconds, 1e20), self.gap)
        if not presolve:
            scip.setParam("presolving/maxrounds", 0)
            scip.setParam("presolving/maxrestarts", 0)
            scip.setParam("misc/usesymmetry", 0)
        offset = 0.0
        if self.gap > 0:  # a relative gap means the score itself, not the regret
            offset = self.reduced.least / self.reduced.top
            scip.addObjoffset(offset / model.scale)
        scip.addObjoffset(-sum(min(value, 0.0) for value in model.pairs.values()))
        variables = {
            pair: scip.addVar(vtype="B", obj=score) for pair, score in model.scores.items()
        }
        self._add_pairs(scip, variables, model)
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

    def _add_pairs(self, scip: Any, variables: Mapping[Pair, Any], model: Model) -> None:
        """The products of binaries, linearised; the objective pushes each from one side."""
        for (one, two), value in model.pairs.items():
            if one not in variables or two not in variables:
                continue
            both = scip.addVar(lb=0.0, ub=1.0, obj=value)
            a, b = variables[one], variables[two]
            if value > 0:
                _add_row(scip, [(1.0, a), (1.0, b), (-1.0, both)], 1)
            else:
                _add_row(scip, [(1.0, both), (-1.0, a)], 0)
                _add_row(scip, [(1.0, both), (-1.0, b)], 0)


def _breaks(cut: Cut, choices: Sequence[int]) -> bool:
    return sum(choices[slot] == op for slot, op in cut.pairs) > cut.most


class _Linear:
    """SCIP's linear relaxation of a tree's columns, kept warm from box to box.

    A row can be broken at a price, so that there always is a solution. The tree takes nothing but
    multipliers and hints from here: their tolerances cannot make it lose a plan.
    """

    def __init__(self, columns: Columns) -> None:
        from pyscipopt import LP

        self.lp = LP()
        self.slots, self.columns = columns.slots, columns
        self.scale = float(columns.regrets.max()) / _SLACK or 1.0
        self.knapsacks = len(columns.weights)
        self.box = np.ones(len(columns.slot), bool)
        self.lp.addRows([[] for _ in range(self.slots)], [1.0] * self.slots, [1.0] * self.slots)
        self.lp.addCols(
            [[(int(slot), 1.0)] for slot in columns.slot],
            (columns.regrets / self.scale).tolist(),
            [0.0] * len(columns.slot),
            [1.0] * len(columns.slot),
        )
        for weights in columns.weights:
            used = np.flatnonzero(_SLACK * weights >= _TINY)
            self._add_row([(int(j), float(_SLACK * weights[j])) for j in used], _SLACK)
        for counted, most in zip(columns.counted, columns.most, strict=True):
            self.add_cut(np.flatnonzero(counted), int(most))

    def add_cut(self, columns: NDArray[np.int64], most: int) -> None:
        """At most `most` of the columns."""
        self._add_row([(int(column), 1.0) for column in columns], float(most))

    def _add_row(self, terms: list[tuple[int, float]], most: float) -> None:
        self.lp.addRow(terms, -self.lp.infinity(), most)
        self.lp.addCol([(self.lp.nrows() - 1, -1.0)], _PENALTY, 0.0, self.lp.infinity())

    def __call__(self, box: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Multipliers of knapsacks and cuts, and the value of each column."""
        for column in np.flatnonzero(box != self.box).tolist():
            self.lp.chgBound(column, 0.0, float(box[column]))
        self.box = box.copy()
        self.lp.solve()
        prices = self.scale * np.maximum(-np.array(self.lp.getDual()[self.slots :]), 0.0)
        prices[: self.knapsacks] *= _SLACK
        return np.where(np.isfinite(prices), prices, 0.0), np.array(
            self.lp.getPrimal()[: len(self.columns.slot)]
        )


def _near(reduced: Reduced, gap: float) -> Callable[[float, float], bool]:
    """Whether a regret is within the gap of a lower bound; the gap is one of the scores."""
    least = reduced.least / reduced.unit

    def near(regret: float, bound: float) -> bool:
        score, low = least + regret, least + bound
        return score - low <= gap * max(abs(score), abs(low))

    return near


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
