"""explain(): why a student is what it is, from its plan.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lanac.errors import CommandError, SelectionError, unknown_name
from lanac.finished import PLAN_NAME, read_plan
from lanac.ir import TEACHER
from lanac.solver import SelectedPlan, SelectionProblem, solve

STEP = 0.05
"""The next larger budget that is looked at, in shares of the budget."""


@dataclass(frozen=True)
class Choice:
    """An op that a slot may take.

    Attributes:
        op: the op.
        score: predicted change of the loss where it is the only change.
        costs: by resource.
    """

    op: str
    score: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Reason:
    """Why a slot has its op.

    Attributes:
        slot: its name.
        chosen: the op.
        own: the teacher's.
        runner_up: the op with the next best score that fits the budget while all other slots stay
            as they are; None where none does.
        left_out: how many ops of better score do not fit it.
    """

    slot: str
    chosen: Choice
    own: Choice
    runner_up: Choice | None
    left_out: int

    def saved(self, resource: str) -> float:
        """What the op saves of a resource."""
        return self.own.costs[resource] - self.chosen.costs[resource]


@dataclass(frozen=True)
class BudgetStep:
    """What a larger budget would change.

    Attributes:
        resource: what it limits.
        limit: the budget.
        price: predicted loss that one more percent of the budget saves.
        changes: (slot, op now, op then), of the best plans by prediction.
    """

    resource: str
    limit: float
    price: float
    changes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Explanation:
    """Why a student is what it is.

    Attributes:
        budget: as the user wrote it.
        target: what it was measured on.
        reasons: of every slot, in order.
        steps: one for each limited resource.
    """

    budget: str
    target: str
    reasons: tuple[Reason, ...]
    steps: tuple[BudgetStep, ...]


def explain(folder: str | Path, slot: str | None = None) -> Explanation:
    """Explains a student.

    Args:
        folder: what a compilation has emitted; its plan.json is read, nothing is executed.
        slot: the slot to explain; default: all.

    Raises:
        CommandError: there is no student, or no such slot.
    """
    record = read_plan(Path(folder))
    problem, chosen = _problem(record)
    names = list(problem.slots)
    if slot is not None and slot not in names:
        raise CommandError(unknown_name("slot", slot, names))
    reasons = tuple(
        _reason(problem, chosen, place) for place, name in enumerate(names) if slot in (None, name)
    )
    best = _best(problem)
    steps = tuple(_step(problem, resource, best) for resource in problem.limits)
    return Explanation(record["budget"], record["target"], reasons, steps)


def _problem(record: Mapping[str, Any]) -> tuple[SelectionProblem, tuple[int, ...]]:
    """The problem that the student's plan solves, and the ops that it chose."""
    try:
        slots = record["slots"]
        ops = tuple(tuple(str(item["op"]) for item in slot["pool"]) for slot in slots)
        chosen = tuple(row.index(slot["op"]) for row, slot in zip(ops, slots, strict=True))
        names = tuple(str(slot["slot"]) for slot in slots)
        fixed = {
            names.index(name): ops[names.index(name)].index(op)
            for name, op in record["fixed"].items()
        }
        problem = SelectionProblem(
            slots=names,
            ops=ops,
            scores=tuple(tuple(item["score"] for item in slot["pool"]) for slot in slots),
            costs={
                name: tuple(tuple(item["costs"][name] for item in slot["pool"]) for slot in slots)
                for name in record["constants"]
            },
            constants=record["constants"],
            limits=record["limits"],
            fixed=fixed,
            own=tuple(row.index(str(TEACHER)) for row in ops),
            max_changed=record["max_changed"],
        )
    except (KeyError, TypeError, ValueError, SelectionError) as error:
        raise CommandError(
            f"{PLAN_NAME} is damaged: {type(error).__name__}: {error}; compile again: it is quick now"
        ) from error
    return problem, chosen


def _choice(problem: SelectionProblem, slot: int, op: int) -> Choice:
    costs = {name: table[slot][op] for name, table in problem.costs.items()}
    return Choice(problem.ops[slot][op], problem.scores[slot][op], costs)


def _reason(problem: SelectionProblem, chosen: tuple[int, ...], slot: int) -> Reason:
    own = problem.own[slot] if problem.own is not None else 0
    room = {
        name: limit
        - problem.constants.get(name, 0.0)
        - sum(problem.costs[name][other][op] for other, op in enumerate(chosen) if other != slot)
        for name, limit in problem.limits.items()
    }
    ranked = sorted(range(len(problem.ops[slot])), key=lambda op: problem.scores[slot][op])
    others = [op for op in ranked if op != chosen[slot]] if slot not in problem.fixed else []
    fitting = [
        op
        for op in others
        if all(problem.costs[name][slot][op] <= left for name, left in room.items())
    ]
    best = problem.scores[slot][chosen[slot]]
    better = [op for op in others if problem.scores[slot][op] < best and op not in fitting]
    return Reason(
        problem.slots[slot],
        _choice(problem, slot, chosen[slot]),
        _choice(problem, slot, own),
        _choice(problem, slot, fitting[0]) if fitting else None,
        len(better),
    )


def _best(problem: SelectionProblem) -> SelectedPlan:
    """The best plan by prediction."""
    plans = solve(problem).plans
    if not plans:
        raise CommandError(f"{PLAN_NAME} is damaged: no plan meets its limits; compile again")
    return plans[0]


def _step(problem: SelectionProblem, resource: str, now: SelectedPlan) -> BudgetStep:
    """From the best plan at the budget to that at the next larger one."""
    limit = problem.limits[resource]
    larger = replace(problem, limits={**problem.limits, resource: limit * (1 + STEP)})
    then = _best(larger)
    changes = tuple(
        (name, ops[before], ops[after])
        for name, ops, before, after in zip(
            problem.slots, problem.ops, now.choices, then.choices, strict=True
        )
        if before != after
    )
    return BudgetStep(
        resource, limit * (1 + STEP), (now.score - then.score) / (100 * STEP), changes
    )
