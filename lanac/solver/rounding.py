"""Plans by randomised rounding of the linear relaxation: no proof, but cheap where a gap is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from lanac.solver.listing import Bools, Columns, Floats, Ints

_SAMPLES = 400
_MARGINS = (
    2,
    4,
    6,
    9,
)  # by how much the rounded relaxation allows less overlap than a plan may have
_FITS = 1 + 1e-9


class Relaxation(Protocol):
    """The linear relaxation of the columns with slack at a price, so that it has a solution."""

    def __call__(self, box: Bools) -> tuple[Floats, Floats]:
        """Multipliers of the knapsacks and cuts, and the value of each column."""

    def add_cut(self, columns: Ints, most: int) -> None:
        """One more cut."""


class Rounding:
    """Rounds relaxations whose cuts are a little too tight, so that rounded ones keep the cuts.

    Args:
        columns: the ops in question, and the cuts as they are.
        relax: makes the linear relaxation of columns.
        seed: of the draws.
    """

    def __init__(self, columns: Columns, relax: Callable[[Columns], Relaxation], seed: int) -> None:
        self.columns, self.cuts = columns, len(columns.most)
        self.relax, self.draw = relax, np.random.default_rng(seed)
        self.relaxed: list[Relaxation] = []

    def plans(self) -> Ints:
        """Rounded choices that keep all rows up to rounding; maybe none. One row each."""
        columns = self.columns
        for row in range(self.cuts, len(columns.most)):
            counted, most = np.flatnonzero(columns.counted[row]), columns.most[row]
            for relaxed, margin in zip(self.relaxed, _MARGINS, strict=False):
                relaxed.add_cut(counted, int(_tight(most, margin)))
        self.cuts = len(columns.most)
        box = np.ones(len(columns.slot), bool)
        for place, margin in enumerate(_MARGINS):
            if place == len(self.relaxed):
                same = (columns.slot, columns.regrets, columns.weights, columns.counted)
                self.relaxed.append(self.relax(Columns(*same, _tight(columns.most, margin))))
            found = self._rounded(self.relaxed[place](box)[1])
            if len(found):
                return found
        return np.zeros((0, columns.slots), np.int64)

    def _rounded(self, values: Floats) -> Ints:
        """Each slot's op drawn with its value as the probability; what breaks a row is dropped."""
        columns = self.columns
        drawn = np.empty((_SAMPLES, columns.slots), np.int64)
        for slot, (start, size) in enumerate(zip(columns.starts, columns.sizes, strict=True)):
            shares = np.cumsum(np.maximum(values[start : start + size], 0.0))
            at = self.draw.random(_SAMPLES) * shares[-1]
            drawn[:, slot] = start + np.minimum(np.searchsorted(shares, at, "right"), size - 1)
        weights = columns.weights[:, drawn].sum(2)
        drawn = drawn[(weights <= _FITS).all(0)]
        for row, most in zip(columns.counted, columns.most, strict=True):
            drawn = drawn[row[drawn].sum(1) <= most]
        result: Ints = drawn
        return result


def _tight(most: Ints, margin: int) -> Ints:
    """Less by the margin, but not so little that small cuts close altogether."""
    return np.maximum(most - margin, np.minimum(most, 1))
