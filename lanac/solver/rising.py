"""The plans of a sequence by a rising regret: list all plans below it, take the next ones, go on.

Few choices below the regret of the hundredth plan keep the overlaps with the plans before it and
spend the budget: they can be walked through as a whole (`walk`), without a tree. The linear
relaxation of the cuts known by then gives one window, the limits alone the other. A listing meets
more choices than the one before, so that the last ones take most of the time. Where a listing is
too much, the tree goes on from the regret that was reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lanac.solver.listing import Columns, Floats, Ints, Window
from lanac.solver.pool import Found, Pool
from lanac.solver.problem import Pair
from lanac.solver.reduce import Reduced
from lanac.solver.rounding import Relaxation
from lanac.solver.walk import TooMany, Walk

_FIRST = 1e4  # choices in the first window, counted without cuts and limits
_MOST = 1e30
_GROWTH = 3.0  # times as many in the next window
_QUICK, _QUICK_GROWTH = 1e5, 10.0  # the same after so few partial choices
_FLOOD = 3  # so large a part of the plans came at once: the next window need not be larger
_FEWER = 0.25  # as many after a listing that was too much
_LEAST_LIMIT = 2e6  # partial choices that a listing may meet
_LIMIT_GROWTH = 5.0  # or so many times as many as those before
_MOST_LIMIT = 2e8
_REACH = 0.125  # how far to look at first, as a part of the distance of the first plan's bound
_LEAST_REACH = 1e-4  # of the first regret
_SHARE = 0.7  # of the time: the tree has the rest


class Sequence(Protocol):
    """What the tree and this file share: the problem in floats, and the plans found."""

    reduced: Reduced
    relax: Callable[[Columns], Relaxation]
    pairs: list[Pair]
    slot: Ints
    low: Floats
    prices: Floats
    most_regret: float
    found: list[Found]
    done: bool
    deadline: float

    def columns(self, shown: Ints) -> Columns:
        """The ops in question with all cuts."""

    def accept(self, plan: Found, bound: float, columns: Columns, relaxed: Relaxation) -> None:
        """Take in the next plan, and its cut into the columns and their relaxation."""


@dataclass
class _Pace:
    """How far the next listing goes.

    Attributes:
        most: choices that its window holds.
        limit: partial choices that it may meet.
    """

    most: float = _FIRST
    limit: float = _LEAST_LIMIT
    shrunk: bool = False

    def end(self, windows: list[Window], floor: float, guess: float) -> float:
        """The regret that a window with few enough choices reaches; the best window first."""
        while True:
            ends = [window.furthest(guess, self.most) for window in windows]
            if max(ends) > floor or self.shrunk or self.most > _MOST:
                break
            self.most *= 2
        if ends[1] > ends[0]:
            windows.reverse()
        return max(ends)

    def too_much(self) -> None:
        """After a listing that was given up."""
        self.most, self.shrunk = _FEWER * self.most, True

    def try_more(self) -> bool:
        """Where no window is small enough: allow more partial choices, up to a limit."""
        self.shrunk, self.limit = False, _LIMIT_GROWTH * self.limit
        return self.limit <= _MOST_LIMIT and self.most <= _MOST

    def listed(self, work: int, new: int, found: int, missing: int) -> None:
        """After a listing: the partial choices, the new plans, all plans, and those to come."""
        growth = _QUICK_GROWTH if work < _QUICK else _GROWTH
        if new > max(4, found // _FLOOD):
            growth = 1.0
        if new:
            growth = min(growth, 1 + growth * missing / new)
        self.most, self.shrunk = growth * self.most, False
        self.limit = max(self.limit, _LIMIT_GROWTH * work)


def rise(tree: Sequence, count: int) -> float:
    """Add plans until there are `count`, none is left, or a listing is too much.

    Where ties are so many that not even one plan comes out of a listing, the tree is better.

    Args:
        tree: what has at least one plan.
        count: of plans.

    Returns:
        The regret up to which all plans are taken in.
    """
    now = time.perf_counter()
    deadline = now + _SHARE * (tree.deadline - now)
    floor, listed, begun = tree.found[-1].bound, -1.0, len(tree.found)
    reach = max(_REACH * (floor - float(tree.low.min())), _LEAST_REACH * floor) or tree.most_regret
    pace = _Pace()
    while len(tree.found) < count and not tree.done:
        guess = min(floor + reach, tree.most_regret)
        shown = np.flatnonzero(tree.low <= guess)
        end, work, before = guess, 0, len(tree.found)
        if len(np.unique(tree.slot[shown])) == len(tree.reduced.allowed):
            columns = tree.columns(shown)
            relaxed = tree.relax(columns)
            box = np.ones(len(shown), bool)
            plain = np.concatenate((tree.prices, np.zeros(len(columns.most))))
            windows = [Window.at(columns, box, prices) for prices in (relaxed(box)[0], plain)]
            end = pace.end(windows, floor, guess)
            if end <= floor:
                if len(tree.found) == begun or not pace.try_more():
                    return floor
                continue
            walk = Walk(windows, end, pace.limit, deadline)
            try:
                choices = walk.choices()
            except TooMany:
                if time.perf_counter() > deadline:
                    return floor
                pace.too_much()
                continue
            pool = Pool(tree.reduced, columns, [tree.pairs[place] for place in shown])
            pool.add(choices, listed, end)
            while len(tree.found) < count and (plan := pool.next(end, None)):
                tree.accept(plan, plan.regret, columns, relaxed)
            work = walk.work
        tree.done = len(tree.found) < count and end >= tree.most_regret
        new = len(tree.found) - before
        pace.listed(work, new, len(tree.found), count - len(tree.found))
        reach *= 2.0 if end >= guess else 0.5 if end < floor + reach / 4 else 1.0
        floor = listed = end
    return floor
