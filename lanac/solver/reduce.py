"""The selection problem in integers: what is certain without a solver, and exact cuts.

Every float is an integer over a power of two, so that sums and comparisons here are exact. Limits
are rewritten as knapsacks over the *excess* of an op above the cheapest op of its slot, which
makes them scale-free: flops of 1e9 and milliseconds of 0.1 look alike to the solver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from lanac.solver.problem import Pair, SelectionProblem, Table

Integers = list[list[int]]


@dataclass(frozen=True)
class Cut:
    """At most `most` of the (slot, op) pairs may be chosen."""

    pairs: tuple[Pair, ...]
    most: int


@dataclass(frozen=True)
class Knapsack:
    """A limit: the sum of the excesses is at most the slack (integers of one common unit)."""

    excess: Integers
    slack: int


@dataclass(frozen=True)
class Reduced:
    """A selection problem without the ops that no plan can contain.

    Attributes:
        allowed: ops that are left in each slot, at least one.
        regrets: score above the smallest allowed score of the slot, at least 0, in units.
        least: sum of the smallest allowed scores, in units.
        unit: this many units make a score of 1.
        knapsacks: the limits.
        pairs: ((slot, op), (slot, op)) -> units that choosing both adds; below 0, that choosing
            not both adds instead (and `least` has them), so that no regret is below 0.
    """

    allowed: tuple[tuple[int, ...], ...]
    regrets: Integers
    least: int
    unit: int
    knapsacks: tuple[Knapsack, ...]
    pairs: Mapping[tuple[Pair, Pair], int] = field(default_factory=dict)

    @cached_property
    def top(self) -> int:
        """A power of two above every regret: so many units are 1 in the floats of the solvers.

        In the unit of scores as small as the smallest floats, margins for rounding would vanish.
        """
        single = (
            row[op] for row, pool in zip(self.regrets, self.allowed, strict=True) for op in pool
        )
        return 1 << max(max(single), *map(abs, self.pairs.values()), 0).bit_length()

    def regret(self, choices: Sequence[int]) -> int:
        """How far the score lies above `least`, in units."""
        single = sum(row[op] for row, op in zip(self.regrets, choices, strict=True))
        return single + self.pair_regret(choices)

    def pair_regret(self, choices: Sequence[int]) -> int:
        """What the pair terms add to the regret, at least 0, in units."""
        total = 0
        for ((slot, op), (other, other_op)), units in self.pairs.items():
            both = choices[slot] == op and choices[other] == other_op
            total += max(units, 0) if both else max(-units, 0)
        return total

    def violated(self, choices: Sequence[int]) -> list[Cut]:
        """Cuts, valid for every plan, that the choices break; empty if all limits are kept."""
        return [
            _cover(knapsack, self.allowed, choices)
            for knapsack in self.knapsacks
            if _total(knapsack, choices) > knapsack.slack
        ]


def reduce_problem(problem: SelectionProblem) -> Reduced | None:
    """Drop the ops that break `fixed`, `forbidden` or a limit whatever else is chosen.

    Returns:
        The reduced problem, or None if no plan exists for certain.
    """
    allowed = allowed_ops(problem)
    tables = [
        integers(limit.table, (limit.most, limit.constant)) for limit in problem.every_limit()
    ]
    before = None
    while allowed != before:  # dropping for one limit can raise the minimum of another
        if not all(allowed):
            return None
        before, knapsacks = allowed, []
        for rows, (limit, constant), _ in tables:
            excess, least = _above_least(rows, allowed)
            slack = limit - constant - least
            if slack < 0:
                return None
            knapsacks.append(Knapsack(excess, slack))
            allowed = tuple(
                tuple(op for op in pool if row[op] <= slack)
                for row, pool in zip(excess, allowed, strict=True)
            )
    scores, pair_units, unit = integers(problem.scores, problem.pair_scores.values())
    regrets, least = _above_least(scores, allowed)
    pairs = {
        pair: units
        for pair, units in zip(problem.pair_scores, pair_units, strict=True)
        if units and all(op in allowed[slot] for slot, op in pair)
    }
    least += sum(min(units, 0) for units in pairs.values())
    return Reduced(allowed, regrets, least, unit, tuple(knapsacks), pairs)


def first_cuts(problem: SelectionProblem) -> list[Cut]:
    """What holds besides the limits before a plan is found."""
    forbidden = [Cut(pairs, len(pairs) - 1) for pairs in problem.forbidden]
    earlier = [Cut(tuple(enumerate(plan)), problem.overlap_limit) for plan in problem.earlier]
    return forbidden + earlier


def exact_score(problem: SelectionProblem, choices: Sequence[int]) -> Fraction:
    """The score of the choices with the pair terms, unrounded."""
    total = exact_total(problem.scores, choices)
    for (one, two), value in problem.pair_scores.items():
        if choices[one[0]] == one[1] and choices[two[0]] == two[1]:
            total += Fraction(value)
    return total


def allowed_ops(problem: SelectionProblem) -> tuple[tuple[int, ...], ...]:
    """The ops of each slot that `fixed` and the forbidden sets of one pair leave."""
    single = {pairs[0] for pairs in problem.forbidden if len(pairs) == 1}
    return tuple(
        tuple(
            op
            for op in range(len(pool))
            if problem.fixed.get(slot, op) == op and (slot, op) not in single
        )
        for slot, pool in enumerate(problem.ops)
    )


def integers(table: Table, extra: Iterable[float] = ()) -> tuple[Integers, list[int], int]:
    """The same numbers times a common power of two that makes all of them integers."""
    ratios = [[value.as_integer_ratio() for value in row] for row in (*table, tuple(extra))]
    unit = max((bottom for row in ratios for _, bottom in row), default=1)
    scaled = [[top * (unit // bottom) for top, bottom in row] for row in ratios]
    return scaled[:-1], scaled[-1], unit


def exact_total(table: Sequence[Sequence[float]], choices: Sequence[int]) -> Fraction:
    """The sum of the chosen entries, unrounded."""
    chosen = (row[op] for row, op in zip(table, choices, strict=True))
    return sum(map(Fraction, chosen), Fraction(0))


def _above_least(rows: Integers, allowed: tuple[tuple[int, ...], ...]) -> tuple[Integers, int]:
    least = [min(row[op] for op in pool) for row, pool in zip(rows, allowed, strict=True)]
    above = [[value - low for value in row] for row, low in zip(rows, least, strict=True)]
    return above, sum(least)


def _total(knapsack: Knapsack, choices: Sequence[int]) -> int:
    return sum(row[op] for row, op in zip(knapsack.excess, choices, strict=True))


def _cover(knapsack: Knapsack, allowed: tuple[tuple[int, ...], ...], choices: Sequence[int]) -> Cut:
    """The extended cover inequality of choices that exceed the slack.

    The fewest slots C whose chosen excesses exceed the slack cannot all stay as dear as they are.
    Counted are, in a slot of C, the ops at least as dear as the chosen one, and in any other slot
    the ops at least as dear as the dearest choice in C: any |C| of these exceed the slack too.
    """
    chosen = [row[op] for row, op in zip(knapsack.excess, choices, strict=True)]
    dearest_first = sorted(range(len(chosen)), key=lambda slot: -chosen[slot])
    cover: set[int] = set()
    total = 0
    for slot in dearest_first:
        if total > knapsack.slack:
            break
        cover.add(slot)
        total += chosen[slot]
    dearest = chosen[dearest_first[0]]
    pairs = tuple(
        (slot, op)
        for slot, pool in enumerate(allowed)
        for op in pool
        if knapsack.excess[slot][op] >= (chosen[slot] if slot in cover else dearest)
    )
    return Cut(pairs, len(cover) - 1)
