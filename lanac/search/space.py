"""The plans that keep every limit of a selection problem: to draw from, to change, to verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanac.errors import SelectionError
from lanac.solver import SelectedPlan, SelectionProblem, solve, verify_plan
from lanac.solver.reduce import allowed_ops, exact_score, exact_total

Choices = tuple[int, ...]
"""A plan: the index of the op in each slot."""

_NEAR = 1e-9
"""Share of a limit within which sums of floats are not believed."""
_LEFT = "left over"
_SWEEPS = 4
"""Times that every slot is drawn anew between two plans."""


def cheapest_problem(problem: SelectionProblem) -> SelectionProblem:
    """The same limits, but the plan that leaves the most room in them is wanted."""
    limits = problem.every_limit()
    scores = [[0.0] * len(pool) for pool in problem.ops]
    for limit in limits:
        span = max(abs(limit.most - limit.constant), 1e-300)
        for row, costs in zip(scores, limit.table, strict=True):
            row[:] = [score + cost / span for score, cost in zip(row, costs, strict=True)]
    rows = tuple(map(tuple, scores))
    return replace(problem, scores=rows, plan_count=1, max_overlap=None, pair_scores={})


def using_problem(problem: SelectionProblem, share: float) -> SelectionProblem:
    """The same limits, but of the first one that much of the room is used, from the cheapest plan on.

    Where the limit is above every plan's total, the room ends at the largest total. What is used has
    to be more than something, so what is left over the dearest ops is limited.
    """
    limits = problem.every_limit()
    if not limits:
        return problem
    table = [
        [limits[0].table[slot][op] for op in pool] for slot, pool in enumerate(allowed_ops(problem))
    ]
    least, most = sum(map(min, table)), sum(map(max, table))
    top = min(limits[0].most - limits[0].constant, most)
    tops = [max(row) for row in limits[0].table]
    left = tuple(
        tuple(high - cost for cost in row) for high, row in zip(tops, limits[0].table, strict=True)
    )
    return replace(
        problem,
        costs={**problem.costs, _LEFT: left},
        limits={**problem.limits, _LEFT: sum(tops) - least - share * (top - least)},
    )


class Space:
    """The plans that keep every limit, fixing and forbidden set of a selection problem.

    Args:
        problem: whose scores, count and overlap of plans play no part.
        start: one such plan.

    Raises:
        ValueError: the start is none.
    """

    def __init__(self, problem: SelectionProblem, start: Choices) -> None:
        self.problem, self.start = problem, start
        self.allowed = tuple(np.array(pool) for pool in allowed_ops(problem))
        self._limits = problem.every_limit()
        self._sets = [pairs for pairs in problem.forbidden if len(pairs) > 1]
        shape = (len(self._limits), len(problem.slots), max(map(len, problem.ops)))
        self._costs = np.zeros(shape)
        for place, limit in enumerate(self._limits):
            for slot, row in enumerate(limit.table):
                self._costs[place, slot, : len(row)] = row
        self._room = np.array([limit.most - limit.constant for limit in self._limits])
        self._margin = _NEAR * np.array([max(abs(limit.most), 1e-300) for limit in self._limits])
        least = [self._costs[:, slot, pool].min(1) for slot, pool in enumerate(self.allowed)]
        # rest[:, slot]: the least that the slots behind this one can cost.
        behind = np.cumsum(np.array(least[::-1]), 0)[::-1]
        self._rest = np.concatenate([behind[1:], np.zeros((1, len(self._limits)))]).T
        if not self.allows(start):
            raise ValueError(f"the plan to start from, {start}, breaks a limit")

    def using(self, share: float) -> Space | None:
        """The plans that use so much of the first limit's room; None where none was found.

        One is found by filling: slot after slot takes the dearest op that still fits.
        """
        plan = list(self.start)
        for slot, pool in enumerate(self.allowed) if self._limits else ():
            for op in sorted(pool.tolist(), key=lambda op: -self._costs[0, slot, op]):
                if self.allows((*plan[:slot], op, *plan[slot + 1 :])):
                    plan[slot] = op
                    break
        try:
            return Space(using_problem(self.problem, share), tuple(plan))
        except ValueError:
            return None

    @property
    def slots(self) -> int:
        return len(self.allowed)

    def allows(self, plan: Choices) -> bool:
        """Whether a plan keeps everything; in exact arithmetic where it is close to a limit."""
        if any(op not in pool for op, pool in zip(plan, self.allowed, strict=True)):
            return False
        if any(all(plan[slot] == op for slot, op in pairs) for pairs in self._sets):
            return False
        spare = self._room - self._costs[:, np.arange(self.slots), plan].sum(1)
        for limit, value, margin in zip(self._limits, spare, self._margin, strict=True):
            if value < -margin:
                return False
            if value < margin and not _keeps(limit.table, limit.constant, limit.most, plan):
                return False
        return True

    def draw(self, start: Choices, rng: np.random.Generator, sweeps: int = _SWEEPS) -> Choices:
        """A plan drawn evenly from all of them, by steps that each draw two slots anew.

        Rejecting what breaks the budget would never end where it is tight; these steps stay inside
        it. They are a Markov chain whose stationary distribution is even over the plans that its
        steps connect: all of them, where there is one limit.
        """
        plan = start
        for _ in range(sweeps):
            order = rng.permutation(self.slots)
            for place in range(0, self.slots, 2):
                plan = self.redraw(plan, order[place : place + 2].tolist(), rng)
        return plan

    def redraw(self, plan: Choices, slots: Sequence[int], rng: np.random.Generator) -> Choices:
        """The plan with the ops of one or two slots drawn anew, evenly from all that fit the rest."""
        one, two = slots[0], slots[-1]
        used = self._costs[:, np.arange(self.slots), plan].sum(1)
        used -= sum(self._costs[:, slot, plan[slot]] for slot in set(slots))
        spare = (self._room - used + self._margin)[:, None, None]
        first, second = self.allowed[one], self.allowed[two]
        cost = self._costs[:, one, first][:, :, None]
        if one != two:
            cost = cost + self._costs[:, two, second][:, None, :]
        fitting = np.argwhere((cost <= spare).all(0))
        if not len(fitting):  # only rounding can do that: the plan itself fits
            return plan
        chosen = fitting[rng.integers(len(fitting))]
        new = list(plan)
        new[one] = int(first[chosen[0]])
        if one != two:
            new[two] = int(second[chosen[1]])
        # What rounding let in, or a forbidden set, is refused: the plan stays for this step.
        return tuple(new) if self.allows(tuple(new)) else plan

    def open_ops(self, slot: int, used: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of a slot's ops leave enough of each limit for the cheapest ops behind it.

        Args:
            slot: the slot.
            used: what the slots before it have taken of each limit, (limits,).

        Returns:
            (ops,) of the whole pool. With several limits, one that is open can still lead to none.
        """
        ops = len(self.problem.ops[slot])
        total = (used + self._rest[:, slot])[:, None] + self._costs[:, slot, :ops]
        fits = (total <= (self._room + self._margin)[:, None]).all(0)
        allowed = np.zeros(ops, bool)
        allowed[self.allowed[slot]] = True
        return np.asarray(fits & allowed)

    def take(self, slot: int, op: int, used: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is taken of each limit, (limits,), with one more op."""
        return np.asarray(used + self._costs[:, slot, op])

    @property
    def nothing(self) -> NDArray[np.float64]:
        """What no op at all takes of each limit."""
        return np.zeros(len(self._limits))

    def shares(self, slot: int) -> NDArray[np.float64]:
        """Costs of a slot's ops as shares of what each limit has for the slots, (limits, ops)."""
        ops = len(self.problem.ops[slot])
        room = np.where(self._room > 0, self._room, 1.0)
        return np.asarray(self._costs[:, slot, :ops] / room[:, None])

    def likeliest(self, scores: Sequence[Sequence[float]], count: int, seed: int) -> list[Choices]:
        """The plans with the lowest sums of these scores, the best first, no two alike: by SCIP.

        Raises:
            SelectionError: none was found in time.
        """
        rows = tuple(tuple(float(value) for value in row) for row in scores)
        wanted = replace(
            self.problem,
            scores=rows,
            plan_count=count,
            max_overlap=None,
            pair_scores={},
            earlier=(),
        )
        found = solve(wanted, seed=seed, time_limit_s=30.0, gap=0.01).plans
        if not found:
            raise SelectionError("search: SCIP found no plan within 30 s; allow a larger budget")
        return [plan.choices for plan in found]

    def nearest(self, plan: Sequence[int], seed: int) -> Choices:
        """The plan that keeps everything and agrees with the given one in the most slots."""
        scores = [[0.0] * len(pool) for pool in self.problem.ops]
        for row, op in zip(scores, plan, strict=True):
            row[op] = -1.0
        return self.likeliest(scores, 1, seed)[0]

    def verified(self, plan: Choices) -> SelectedPlan:
        """The plan with its totals, checked against every limit in exact arithmetic.

        Its `gap` is 0 and says nothing: what a search finds is proven to be within the limits alone.

        Raises:
            SelectionError: it breaks one: a fault of the method.
        """
        problem = replace(self.problem, earlier=())
        totals = {
            name: float(Fraction(problem.constants.get(name, 0.0)) + exact_total(table, plan))
            for name, table in problem.costs.items()
        }
        found = SelectedPlan(plan, float(exact_score(problem, plan)), totals, 0.0)
        verify_plan(problem, found, ())
        return found


def _keeps(table: Any, constant: float, most: float, plan: Choices) -> bool:
    return Fraction(constant) + exact_total(table, plan) <= Fraction(most)
