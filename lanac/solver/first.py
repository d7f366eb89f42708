"""The best plan under one limit: a list of partial choices without the dominated ones.

A partial choice that another one matches or beats in weight and in regret can be dropped: whatever
completes it completes the other as well. Together with the window of the Lagrangian bound
(`listing`) this decides instances on which branching is lost, such as scores proportional to the
costs (multiple-choice knapsack; Pisinger, EJOR 83, 1995). With further rows it does not hold.

Weights are rounded, and so kept with a margin: what is found is best among all plans, and some that
are a billionth too heavy. If it keeps the limit exactly, it is the best plan.
"""

from __future__ import annotations

import numpy as np

from lanac.solver.listing import FITS, MARGIN, Bools, Floats, Ints, Window

_STATES = 1_000_000  # partial choices at once; beyond that the tree is no worse
_PRICES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.1, 1.3, 2.0, 4.0)  # other multipliers, as multiples


def lightest_best(window: Window, highest: float) -> Ints | None:
    """The columns of a choice of least regret among those of at most `highest`.

    Args:
        window: of columns with one knapsack at most, and no cuts.
        highest: regret up to which choices are looked at.

    Returns:
        One column per slot, in their order; empty if there is none; None if that takes too much.
    """
    columns = window.columns
    weights = columns.weights.sum(0)  # one row, or none
    width = window.width(highest)
    free, single = window.groups(width)
    nothing = np.zeros(0, np.int64)
    if len(single) + len(free) < columns.slots:
        return nothing
    free.sort(key=lambda group: -float(np.partition(window.reduced[group], 1)[1]))
    least = [float(weights[group].min()) for group in free]
    room = FITS - float(weights[single].sum()) - sum(least)
    spent, used, regret = np.zeros(1), np.zeros(1), np.zeros(1)
    trail: list[tuple[Ints, Ints]] = []
    completed = _Completion(
        window, free, least, room, highest - float(columns.regrets[single].sum())
    )
    for place, (group, lightest) in enumerate(zip(free, least, strict=True)):
        before, which = np.nonzero(spent[:, None] + window.reduced[group] <= width)
        column = group[which]
        more = used[before] + (weights[column] - lightest)
        total = regret[before] + columns.regrets[column]
        kept = np.flatnonzero((more <= room) & completed(place, more, total))
        kept = kept[undominated(more[kept], total[kept])]
        if not len(kept):
            return nothing
        if len(kept) > _STATES:
            return None
        before, column = before[kept], column[kept]
        used, regret = more[kept], total[kept]
        spent = spent[before] + window.reduced[column]
        trail.append((before, column))
    at, found = int(regret.argmin()), [int(column) for column in single]
    for before, column in reversed(trail):
        found.append(int(column[at]))
        at = int(before[at])
    return np.sort(np.array(found, np.int64))


class _Completion:
    """Whether partial choices can be completed to a choice of at most a regret.

    The window asks so at one multiplier. A partial choice that is much lighter or heavier than most
    is bounded better by others.

    Args:
        window: the relaxation.
        groups: columns of the slots, in the order in which partial choices grow.
        least: weight of the lightest column of each group, counted as 0.
        room: weight that the groups may take beyond that.
        highest: regret that they may take.
    """

    def __init__(
        self, window: Window, groups: list[Ints], least: list[float], room: float, highest: float
    ) -> None:
        regrets, weights = window.columns.regrets, window.columns.weights.sum(0)
        self.room, self.prices = room, np.outer(window.prices, _PRICES).ravel()
        cheapest = np.array(
            [
                (regrets[group] + self.prices[:, None] * (weights[group] - low)).min(1)
                for group, low in zip(groups, least, strict=True)
            ]
        ).reshape(len(groups), len(self.prices))
        self.rest = cheapest[::-1].cumsum(0)[::-1] - cheapest  # of the groups behind each
        self.highest = highest + MARGIN * (abs(highest) + cheapest.sum(0) + self.prices * room)

    def __call__(self, place: int, used: Floats, regrets: Floats) -> Bools:
        """For partial choices up to and with the group at this place."""
        kept = np.ones(len(used), bool)
        for price, rest, highest in zip(self.prices, self.rest[place], self.highest, strict=True):
            kept &= regrets + rest - price * (self.room - used) <= highest
        return kept


def undominated_ops(slot: Ints, weights: Floats, regrets: Floats) -> Ints:
    """Places of the ops that no other one of their slot matches or beats; ascending.

    Args:
        slot: slot of each op, ascending.
        weights: one row of them, or none.
        regrets: of each op.
    """
    ends = np.flatnonzero(np.diff(slot)) + 1
    weight = weights.sum(0)
    kept = [
        start + undominated(weight[start:end], regrets[start:end])
        for start, end in zip((0, *ends), (*ends, len(slot)), strict=True)
    ]
    return np.sort(np.concatenate(kept))


def undominated(weights: Floats, regrets: Floats) -> Ints:
    """Places of the points that no other one matches or beats in both; of equal ones the first."""
    order = np.lexsort((regrets, weights))
    ahead = np.minimum.accumulate(np.concatenate(([np.inf], regrets[order][:-1])))
    result: Ints = order[regrets[order] < ahead]
    return result
