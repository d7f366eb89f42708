"""An independent check of a plan in exact arithmetic; shares no code with the search."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from lanac.errors import SelectionError
from lanac.solver.problem import SelectedPlan, SelectionProblem

_BUG = "This is a fault of the solver, not of the data; please report it."


def verify_plan(
    problem: SelectionProblem, plan: SelectedPlan, earlier: Iterable[SelectedPlan]
) -> None:
    """Check one plan against every constraint of LANA, Eq. 4; optimality is not checked.

    Args:
        problem: what was to be solved.
        plan: the plan to check.
        earlier: the plans found before it.

    Raises:
        SelectionError: the plan breaks a constraint, or its totals are not those of its choices.
    """
    _verify_choices(problem, plan.choices)
    _verify_totals(problem, plan)
    known = [(f"earlier plan {number}", other) for number, other in enumerate(problem.earlier)]
    known += [(f"plan {number}", other.choices) for number, other in enumerate(earlier)]
    for name, choices in known:
        shared = sum(a == b for a, b in zip(plan.choices, choices, strict=True))
        if shared > problem.overlap_limit:
            raise SelectionError(
                f"plan check: expected at most {problem.overlap_limit} choices shared with "
                f"{name}, got {shared}. {_BUG}"
            )


def _verify_choices(problem: SelectionProblem, choices: tuple[int, ...]) -> None:
    if len(choices) != len(problem.slots):
        raise SelectionError(
            f"plan check: expected one choice for each of the {len(problem.slots)} slots, "
            f"got {len(choices)}. {_BUG}"
        )
    for slot, (choice, pool) in enumerate(zip(choices, problem.ops, strict=True)):
        name = problem.slots[slot]
        if not 0 <= choice < len(pool):
            raise SelectionError(
                f"plan check, slot {name!r}: expected an op index in 0..{len(pool) - 1}, "
                f"got {choice}. {_BUG}"
            )
        if problem.fixed.get(slot, choice) != choice:
            raise SelectionError(
                f"plan check, slot {name!r}: expected the fixed op "
                f"{pool[problem.fixed[slot]]!r}, got {pool[choice]!r}. {_BUG}"
            )
    for number, pairs in enumerate(problem.forbidden):
        if all(choices[slot] == op for slot, op in pairs):
            raise SelectionError(
                f"plan check: expected forbidden set {number} not to be chosen as a whole, "
                f"got all of it. {_BUG}"
            )
    if problem.max_changed is not None and problem.own is not None:
        changed = sum(op != own for op, own in zip(choices, problem.own, strict=True))
        if changed > problem.max_changed:
            raise SelectionError(
                f"plan check: expected at most {problem.max_changed} changed slots, "
                f"got {changed}. {_BUG}"
            )


def _verify_totals(problem: SelectionProblem, plan: SelectedPlan) -> None:
    def total(table: tuple[tuple[float, ...], ...]) -> Fraction:
        chosen = (row[op] for row, op in zip(table, plan.choices, strict=True))
        return sum(map(Fraction, chosen), Fraction(0))

    score = total(problem.scores)
    for pair, value in problem.pair_scores.items():
        if all(plan.choices[slot] == op for slot, op in pair):
            score += Fraction(value)
    if plan.score != float(score):
        raise SelectionError(
            f"plan check, score: expected {float(score)!r}, the sum of the "
            f"chosen scores, got {plan.score!r}. {_BUG}"
        )
    if not (math.isfinite(plan.gap) and plan.gap >= 0):
        raise SelectionError(
            f"plan check, gap: expected a finite number of at least 0, got {plan.gap!r}. {_BUG}"
        )
    if set(plan.costs) != set(problem.costs):
        raise SelectionError(
            f"plan check, costs: expected totals of {sorted(problem.costs)}, "
            f"got {sorted(plan.costs)}. {_BUG}"
        )
    for name, table in problem.costs.items():
        exact = Fraction(problem.constants.get(name, 0.0)) + total(table)
        if plan.costs[name] != float(exact):
            raise SelectionError(
                f"plan check, {name!r}: expected a total of {float(exact)!r}, the sum of the "
                f"chosen costs and the constant, got {plan.costs[name]!r}. {_BUG}"
            )
        if name in problem.limits and exact > Fraction(problem.limits[name]):
            raise SelectionError(
                f"plan check, {name!r}: expected a total of at most {problem.limits[name]!r}, "
                f"got {float(exact)!r}, which exceeds it by "
                f"{float(exact - Fraction(problem.limits[name])):.3g}. {_BUG}"
            )
