"""The selection problem (LANA, Eq. 4) and its answer as plain data; no solver in sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from lanac.solver.validate import (
    check_fixed,
    check_forbidden,
    check_names,
    check_numbers,
    check_plan_options,
    check_resources,
    check_table,
)

Table = tuple[tuple[float, ...], ...]
Pair = tuple[int, int]


@dataclass(frozen=True)
class SelectionProblem:
    """Choose one op per slot (LANA, Eq. 4, and the diverse plans of the section on it).

    Minimise the sum of the scores subject to an upper limit on the total of each limited
    resource, then the next best plan, and so on: each plan shares at most `max_overlap` choices
    with every earlier one (the paper: floor(0.7 N)).

    Limits are kept in exact arithmetic on the given floats: three costs of 0.1 exceed a limit of
    0.3, because the float 0.1 is a little more than a tenth.

    Attributes:
        slots: names of the N slots.
        ops: names of the ops of each slot.
        scores: change of the loss for each slot and op; may be negative.
        costs: resource -> cost of each slot and op, at least 0.
        constants: resource -> cost outside the slots; 0 where missing.
        limits: resource -> upper limit of the total, the constant included. A resource that is
            not listed is reported but not limited.
        plan_count: how many plans are wanted (K).
        max_overlap: in how many slots two plans may agree; None: they only have to differ (N - 1).
        fixed: slot -> op that it must take.
        forbidden: sets of (slot, op) that must not be chosen all together; also the way to cut
            off a plan that was measured and found bad.

    Raises:
        SelectionError: the data are malformed or contradict each other.
    """

    slots: tuple[str, ...]
    ops: tuple[tuple[str, ...], ...]
    scores: Table
    costs: Mapping[str, Table]
    constants: Mapping[str, float]
    limits: Mapping[str, float]
    plan_count: int = 1
    max_overlap: int | None = None
    fixed: Mapping[int, int] = field(default_factory=dict)
    forbidden: tuple[tuple[Pair, ...], ...] = ()

    def __post_init__(self) -> None:
        slots, ops = check_names(self.slots, self.ops)
        scores = check_table("scores", self.scores, slots, ops, negative=True)
        costs = {
            name: check_table(f"costs of {name!r}", table, slots, ops, negative=False)
            for name, table in self.costs.items()
        }
        check_resources("constants", self.constants, costs)
        check_resources("limits", self.limits, costs)
        check_plan_options(self.plan_count, self.max_overlap, len(slots))
        fixed = check_fixed(self.fixed, slots, ops)
        normal: dict[str, object] = {
            "slots": slots,
            "ops": ops,
            "scores": scores,
            "costs": costs,
            "constants": check_numbers("constants", self.constants, negative=False),
            "limits": check_numbers("limits", self.limits, negative=True),
            "fixed": fixed,
            "forbidden": check_forbidden(self.forbidden, fixed, slots, ops),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)  # frozen for everyone else

    @property
    def overlap_limit(self) -> int:
        """In how many slots two plans may agree, with None resolved to N - 1."""
        return len(self.slots) - 1 if self.max_overlap is None else self.max_overlap


@dataclass(frozen=True)
class SelectedPlan:
    """One op per slot.

    Attributes:
        choices: index of the chosen op of each slot.
        score: predicted change of the loss, the sum of the scores.
        costs: total of each resource, limited or not, its constant included.
        gap: (score - bound) / max(|score|, |bound|), the bound being proven for the step that
            found the plan; 0.0 = proven optimal, within the solver's tolerance of about 1e-9.
    """

    choices: tuple[int, ...]
    score: float
    costs: Mapping[str, float]
    gap: float


class SelectionStatus(Enum):
    """How a selection ended."""

    OPTIMAL = "optimal"
    """All K plans, each proven optimal for its step."""
    FEASIBLE = "feasible"
    """At least one plan; the time ran out, or a gap was asked for. Each plan carries its gap."""
    FEWER_PLANS = "fewer_plans"
    """No plan beyond the returned ones keeps the limits and the overlap; at least one exists."""
    INFEASIBLE = "infeasible"
    """No plan exists."""
    TIME_LIMIT = "time_limit"
    """The time ran out before a first plan was found; nothing is known about feasibility."""


@dataclass(frozen=True)
class Selection:
    """The answer to a selection problem.

    Attributes:
        status: how it ended.
        plans: the plans, best first.
        smallest: INFEASIBLE only: smallest reachable total of each limited resource by itself,
            rounded up; other limits ignored, `fixed` and `forbidden` respected. A resource is
            missing if that could not be proven in time; all are, if `fixed` and `forbidden`
            alone leave no plan.
        binding: INFEASIBLE only: the resources whose smallest total exceeds their limit; if each
            is reachable by itself but not all together, all limited resources; empty if `fixed`
            and `forbidden` alone leave no plan.
        seconds: wall-clock time taken.
    """

    status: SelectionStatus
    plans: tuple[SelectedPlan, ...]
    smallest: Mapping[str, float]
    binding: tuple[str, ...]
    seconds: float
