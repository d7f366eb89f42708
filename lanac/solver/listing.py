"""The choices of a box whose Lagrangian value lies in a window: few enough to be listed?

With multipliers m >= 0 on the rows a choice of one op per slot has
    regret >= sum_i min_j c_ij - m . limits + sum_i (c_i,chosen - min_j c_ij),  c = regret + m . rows,
so that a choice of at most a given regret spends at most a small window on the last sum. Where few
choices fit the window it is cheaper to list them all, vectorised, than to branch until each stands
alone. Any multipliers are valid: a solver's tolerance cannot lose a choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BUCKETS = 128
_CLOSER = 4  # times at most that the first bucket is divided: below that, choices are ties
FITS = 1 + 1e-9  # a knapsack of slack 1 in floats; the exact check comes later
MARGIN = 1e-9  # relative, far above the rounding of the sums here
_LEAST_MARGIN = 1e-200  # where the regrets are too small for a relative one; the largest is near 1


@dataclass
class Columns:
    """The ops in question as flat arrays, slot after slot, and the rows that couple the slots.

    Attributes:
        slot: slot of each column, ascending.
        regrets: at least 0.
        weights: knapsacks x columns, each with a slack of 1.
        counted: cuts x columns, 1 where a cut counts the column.
        most: how many columns each cut allows.
    """

    slot: Ints
    regrets: Floats
    weights: Floats
    counted: NDArray[np.int8]
    most: Ints

    def __post_init__(self) -> None:
        self.slots = int(self.slot[-1]) + 1
        self.sizes = np.bincount(self.slot, minlength=self.slots)
        self.starts = np.concatenate(([0], np.cumsum(self.sizes)[:-1]))

    def add_cut(self, columns: Ints, most: int) -> None:
        """One more cut: at most `most` of the columns."""
        row = np.zeros((1, len(self.slot)), np.int8)
        row[0, columns] = 1
        self.counted = np.concatenate((self.counted, row))
        self.most = np.append(self.most, most)


@dataclass
class Window:
    """The relaxation of a box at some multipliers.

    Attributes:
        bound: below the regret of every plan of the box.
        reduced: cost of each column above the cheapest of its slot; infinite outside the box.
        prices: the multipliers of the knapsacks.
    """

    columns: Columns
    bound: float
    reduced: Floats
    prices: Floats

    @classmethod
    def at(cls, columns: Columns, box: Bools, prices: Floats) -> Window:
        """The relaxation at multipliers of the knapsacks and then the cuts, all at least 0.

        The multipliers are for regrets in the unit of `columns.regrets`.
        """
        knapsacks = len(columns.weights)
        costs = columns.regrets + prices[:knapsacks] @ columns.weights
        used = np.flatnonzero(prices[knapsacks:])
        paid = prices[knapsacks:][used]
        costs = costs + paid @ columns.counted[used]
        constant = float(prices[:knapsacks].sum() + paid @ columns.most[used])
        least = np.minimum.reduceat(np.where(box, costs, np.inf), columns.starts)
        bound = float(least.sum()) - constant
        bound -= MARGIN * (float(np.abs(least).sum()) + constant) + _LEAST_MARGIN
        return cls(
            columns, bound, np.where(box, costs - least[columns.slot], np.inf), prices[:knapsacks]
        )

    def groups(self, width: float) -> tuple[list[Ints], Ints]:
        """Columns within the width for each slot with several, and those without a choice."""
        alive = np.flatnonzero(self.reduced <= width)
        places = np.searchsorted(self.columns.slot[alive], np.arange(1, self.columns.slots))
        split = np.split(alive, places)
        single = np.array([group[0] for group in split if len(group) == 1], np.int64)
        return [group for group in split if len(group) > 1], single

    def width(self, highest: float) -> float:
        """What a choice of at most this regret can spend above the cheapest one, and a little more.

        The sums of what is spent and of the regret are rounded differently: without the margin a
        choice that stands at the very end of a window could be missing on both sides of it.
        """
        return (highest - self.bound) * (1 + MARGIN)

    def furthest(self, highest: float, most: float) -> float:
        """The regret up to which at most about `most` choices are met; counted in buckets.

        Where the first bucket holds too many, it is looked at more closely.
        """
        width = self.width(highest)
        if not width > 0:
            return highest
        for _ in range(_CLOSER):
            met = self._buckets(width, most)
            if met > 0:
                return min(highest, self.bound + width * (met / _BUCKETS))
            width /= _BUCKETS
        return self.bound

    def _buckets(self, width: float, most: float) -> int:
        """How many buckets of the width hold at most about so many choices."""
        counts = np.zeros(_BUCKETS)
        counts[0] = 1.0
        for group in self.groups(width)[0]:
            bucket = (self.reduced[group] * (_BUCKETS / width)).astype(np.int64)
            step = np.bincount(np.minimum(bucket, _BUCKETS - 1), minlength=_BUCKETS)
            counts = np.convolve(counts, step)[:_BUCKETS]
        return int(np.searchsorted(np.cumsum(counts), most, side="right"))
