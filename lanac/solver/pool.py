"""Plans that were listed, until they are the next of the sequence or break a cut of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lanac.solver.listing import Bools, Columns, Ints
from lanac.solver.problem import Pair
from lanac.solver.reduce import Reduced

_TIE = 1e-12  # relative: closer regrets are compared in integers


@dataclass(frozen=True)
class Found:
    """A plan of the sequence: regret and lower bound in the unit of the tree."""

    choices: tuple[int, ...]
    regret: float
    bound: float


class Pool:
    """Listed plans that still respect all found ones.

    Args:
        reduced: the problem.
        columns: the ops in question; cuts may be added to them at any time.
        pairs: (slot, op) of each column.
    """

    def __init__(self, reduced: Reduced, columns: Columns, pairs: Sequence[Pair]) -> None:
        self.reduced, self.columns, self.pairs = reduced, columns, pairs
        self.regrets = np.zeros(0)
        self.choices = np.zeros((0, columns.slots), np.int64)
        self.cuts = len(columns.most)  # that the pool respects

    def add(self, choices: Ints, above: float, highest: float) -> None:
        """Take in choices with a regret in (above, highest]."""
        regrets = self.columns.regrets[choices].sum(1)
        new = (regrets > above) & (regrets <= highest)
        self.regrets = np.concatenate((self.regrets, regrets[new]))
        self.choices = np.concatenate((self.choices, choices[new]))

    def next(self, bound: float, near: Callable[[float, float], bool] | None) -> Found | None:
        """The best plan of the pool, if no other plan can be better, or the gap allows it."""
        self._respect_cuts()
        while len(self.regrets):
            least = float(self.regrets.min())
            if not (least <= bound or (near and near(least, bound))):
                return None
            ties = np.flatnonzero(self.regrets <= least * (1 + _TIE))
            exact = {int(place): self._plan(int(place)) for place in ties}
            broken = [place for place, plan in exact.items() if self.reduced.violated(plan)]
            if not broken:
                plan = min(exact.values(), key=lambda plan: (self.reduced.regret(plan), plan))
                return Found(plan, least, bound)
            self._keep(~np.isin(np.arange(len(self.regrets)), broken))
        return None

    def _plan(self, place: int) -> tuple[int, ...]:
        return tuple(self.pairs[column][1] for column in self.choices[place])

    def _respect_cuts(self) -> None:
        for row in range(self.cuts, len(self.columns.most)):
            counts = self.columns.counted[row][self.choices].sum(1)
            self._keep(counts <= self.columns.most[row])
        self.cuts = len(self.columns.most)

    def _keep(self, kept: Bools) -> None:
        self.regrets, self.choices = self.regrets[kept], self.choices[kept]
