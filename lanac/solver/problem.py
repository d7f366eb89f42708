"""The selection problem (LANA, Eq. 4) and its answer as plain data; no solver in sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from lanac.solver.options import check_changed, check_earlier, check_kept, check_pair_scores
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

CHANGED = "changed slots"
"""Name of the limit `max_changed` among the resources of an infeasible problem."""


@dataclass(frozen=True)
class Limit:
    """An upper limit on a sum over the slots, the constant included."""

    name: str
    table: Table
    constant: float
    most: float


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
        pair_scores: ((slot, op), (slot, op)) -> what is added to the score where both are chosen;
            for pairs that were seen to interact. May be negative.
        own: op of each slot that changes nothing, the teacher's own; for `kept` and `max_changed`.
        kept: slots that stay as they are.
        max_changed: at most so many slots take another op than their own.
        earlier: plans known already: each plan shares at most `max_overlap` choices with each of
            them too. Continues a sequence, or keeps away from a plan that was measured and found
            bad.

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
    pair_scores: Mapping[tuple[Pair, Pair], float] = field(default_factory=dict)
    own: tuple[int, ...] | None = None
    kept: tuple[int, ...] = ()
    max_changed: int | None = None
    earlier: tuple[tuple[int, ...], ...] = ()

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
        own, kept = check_kept(self.own, self.kept, slots, ops)
        fixed = check_fixed(self.fixed, own, kept, slots, ops)
        check_changed(self.max_changed, own, fixed, slots)
        normal: dict[str, object] = {
            "slots": slots,
            "ops": ops,
            "scores": scores,
            "costs": costs,
            "constants": check_numbers("constants", self.constants, negative=False),
            "limits": check_numbers("limits", self.limits, negative=True),
            "fixed": fixed,
            "forbidden": check_forbidden(self.forbidden, fixed, slots, ops),
            "pair_scores": check_pair_scores(self.pair_scores, slots, ops),
            "own": own,
            "kept": kept,
            "earlier": check_earlier(self.earlier, slots, ops),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)  # frozen for everyone else

    @property
    def overlap_limit(self) -> int:
        """In how many slots two plans may agree, with None resolved to N - 1."""
        return len(self.slots) - 1 if self.max_overlap is None else self.max_overlap

    def every_limit(self) -> tuple[Limit, ...]:
        """The limits of the resources, and `max_changed` as one more."""
        found = [
            Limit(name, self.costs[name], self.constants.get(name, 0.0), most)
            for name, most in self.limits.items()
        ]
        if self.max_changed is not None and self.own is not None:
            changed = tuple(
                tuple(float(op != own) for op in range(len(pool)))
                for pool, own in zip(self.ops, self.own, strict=True)
            )
            found.append(Limit(CHANGED, changed, 0.0, float(self.max_changed)))
        return tuple(found)


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
        smallest: INFEASIBLE only: smallest reachable total of each limited resource by itself
            (and of `CHANGED`, if `max_changed` is given), rounded up; other limits ignored,
            `fixed`, `forbidden` and `earlier` respected. A resource is missing if that could not
            be proven in time; all are, if these alone leave no plan.
        binding: INFEASIBLE only: the resources whose smallest total exceeds their limit; if each
            is reachable by itself but not all together, all limited resources; empty if `fixed`,
            `forbidden` and `earlier` alone leave no plan.
        seconds: wall-clock time taken.
    """

    status: SelectionStatus
    plans: tuple[SelectedPlan, ...]
    smallest: Mapping[str, float]
    binding: tuple[str, ...]
    seconds: float

    def why(self, problem: SelectionProblem) -> str:
        """One sentence on how the selection ended, for people."""
        count, wanted = len(self.plans), problem.plan_count
        plans = f"{count} of {wanted} plans"
        if self.status is SelectionStatus.OPTIMAL:
            return f"{plans}, each proven to be the best that respects those before it"
        if self.status is SelectionStatus.FEASIBLE:
            worst = max(plan.gap for plan in self.plans)
            return f"{plans}, proven to be within {worst:.2%} of the best"
        if self.status is SelectionStatus.TIME_LIMIT:
            return "no plan was found within the time limit; allow more time or a smaller pool"
        if self.status is SelectionStatus.FEWER_PLANS:
            single = sum(
                len(pool) == 1 or slot in problem.fixed for slot, pool in enumerate(problem.ops)
            )
            alike = f"share at most {problem.overlap_limit} of {len(problem.slots)} choices"
            if single > problem.overlap_limit:
                return (
                    f"only {plans} exist: two plans may {alike}, but {single} slots have only "
                    f"one op left; give an overlap of at least {single}, or a larger pool"
                )
            return f"only {plans} exist that keep the limits and {alike}; allow more overlap"
        if not self.binding:
            return "no plan exists: the fixed, forbidden and earlier choices exclude all"
        reach = ", ".join(
            f"{name} can reach {self.smallest[name]:g}"
            for name in self.binding
            if name in self.smallest
        )
        return f"no plan exists within the limits on {', '.join(self.binding)} ({reach})"
