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
_IMPROVED = 6  # of the samples
_EXCHANGES = 2  # per slot, at most
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

    def plans(self, enough: Callable[[float], bool]) -> Ints:
        """Choices that keep all rows up to rounding; maybe none. One row each.

        Args:
            enough: whether a regret is good enough to stop.
        """
        columns = self.columns
        found: list[Ints] = []
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
            prices, values = self.relaxed[place](box)
            drawn = self._drawn(values)
            if len(drawn):
                over = np.maximum(columns.weights[:, drawn].sum(2) - 1, 0.0)
                worth = columns.regrets[drawn].sum(1) + prices[: len(over)] @ over
                best = drawn[np.argsort(worth, kind="stable")[:_IMPROVED]]
                found += [plan for one in best if (plan := self._improved(one)) is not None]
            if any(enough(float(columns.regrets[plan].sum())) for plan in found):
                break
        return np.array(found, np.int64).reshape(-1, columns.slots)

    def _drawn(self, values: Floats) -> Ints:
        """Each slot's op drawn with its value as the probability; what breaks a cut is dropped."""
        columns = self.columns
        drawn = np.empty((_SAMPLES, columns.slots), np.int64)
        for slot, (start, size) in enumerate(zip(columns.starts, columns.sizes, strict=True)):
            shares = np.cumsum(np.maximum(values[start : start + size], 0.0))
            at = self.draw.random(_SAMPLES) * shares[-1]
            drawn[:, slot] = start + np.minimum(np.searchsorted(shares, at, "right"), size - 1)
        for row, most in zip(columns.counted, columns.most, strict=True):
            drawn = drawn[row[drawn].sum(1) <= most]
        result: Ints = np.unique(drawn, axis=0)
        return result

    def _improved(self, plan: Ints) -> Ints | None:
        """The plan after the best exchanges of one op at a time; None if it stays too heavy."""
        columns, plan = self.columns, plan.copy()
        for _ in range(_EXCHANGES * columns.slots):
            now = plan[columns.slot]
            change = columns.regrets - columns.regrets[now]
            counts = columns.counted[:, plan].sum(1)[:, None]
            counts = counts - columns.counted[:, now] + columns.counted
            allowed = (counts <= columns.most[:, None]).all(0)
            weight = columns.weights[:, plan].sum(1)[:, None]
            after = weight - columns.weights[:, now] + columns.weights
            if (weight <= _FITS).all():
                allowed &= (after <= _FITS).all(0) & (change < 0)
                if not allowed.any():
                    return plan
                best = int(np.where(allowed, change, np.inf).argmin())
            else:
                saved = (np.maximum(weight - 1, 0) - np.maximum(after - 1, 0)).sum(0)
                allowed &= saved > 0
                if not allowed.any():
                    return None
                with np.errstate(divide="ignore", invalid="ignore"):
                    best = int(np.where(allowed, change / saved, np.inf).argmin())
            plan[columns.slot[best]] = best
        return plan if (columns.weights[:, plan].sum(1) <= _FITS).all() else None


def _tight(most: Ints, margin: int) -> Ints:
    """Less by the margin, but not so little that small cuts close altogether."""
    return np.maximum(most - margin, np.minimum(most, 1))
