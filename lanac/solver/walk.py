"""All choices of a box up to a regret, listed slot by slot over arrays of partial choices.

A partial choice goes on while all of these can still be met:
- its spending fits the window of each relaxation (`listing.Window`),
- the cheapest completion under the limits keeps the regret: the limits are taken together at the
  multipliers, and for the slots that are left the best of every weight is known,
- each cut can still be kept: those slots that would have to deviate from it cost at least so much.
The last two decide most: plans that share few choices with hundreds of others and spend the
budget are rare, and seldom does a partial choice far from them come close to completion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lanac.solver.first import undominated
from lanac.solver.listing import FITS, MARGIN, Columns, Floats, Ints, Window

Words = NDArray[np.uint64]

_CHUNK = 16_384  # partial choices that are taken on together
_FRONT = 300  # points that are kept of the best completions of every weight
_EDGES = 64  # steps of what may be spent, for which the cuts are looked up
_BUCKETS = 100  # of the window, where the order of the slots is decided
_PLANS = 200_000  # more are not worth listing at once
_NARROW, _WIDE = 120, 30_000  # counts that a byte and two bytes hold


class TooMany(Exception):
    """The choices, or the partial ones on the way to them, are too many; or the time is out."""


class _Measure:
    """What partial choices spend of one window, slot by slot in the order of the walk.

    Attributes:
        width: that may be spent.
        reduced: cost of each op above the cheapest one of its slot.
        paid: weight of each op at the multipliers, above the lightest one of its slot.
        room: how much may be paid.
    """

    def __init__(self, window: Window, highest: float, free: Sequence[Ints], single: Ints) -> None:
        paid = window.prices @ window.columns.weights
        least = [float(paid[group].min()) for group in free]
        self.width = window.width(highest) - float(window.reduced[single].sum())
        self.reduced = [window.reduced[group] for group in free]
        self.paid = [paid[group] - low for group, low in zip(free, least, strict=True)]
        self.room = float(window.prices.sum()) * FITS - float(paid[single].sum()) - sum(least)
        rounding = MARGIN * abs(self.width) + float(window.prices.sum()) * (FITS - 1)
        self.most = self.width + rounding - self.room
        self.paying = bool(window.prices.any())
        self.fronts = self._fronts() if self.paying else []

    def _fronts(self) -> list[tuple[Floats, Floats]]:
        """For the slots behind each: rising payments, and the least regret up to each of them.

        The regret of a choice is what it spends less what it pays, plus what all pay together. A
        front that is too long is thinned to a lower one.
        """
        pays, regrets = np.zeros(1), np.zeros(1)
        fronts = [(pays, np.array([np.inf, 0.0]))]
        for reduced, paid in zip(self.reduced[:0:-1], self.paid[:0:-1], strict=True):
            pays = (paid[:, None] + pays).ravel()
            regrets = ((reduced - paid)[:, None] + regrets).ravel()
            kept = np.flatnonzero(pays <= self.room)
            kept = kept[undominated(pays[kept], regrets[kept])]
            pays, regrets = pays[kept], regrets[kept]
            blocks = np.arange(0, len(pays), -(-len(pays) // _FRONT) or 1)
            if len(blocks):
                pays, regrets = pays[blocks], np.minimum.reduceat(regrets, blocks)
            fronts.append((pays, np.concatenate(([np.inf], regrets))))
        return fronts[::-1]

    def completes(self, place: int, spent: Floats, paid: Floats) -> NDArray[np.bool_]:
        """Whether choices up to and with the slot at this place can be completed."""
        pays, regrets = self.fronts[place]
        rest = regrets[np.searchsorted(pays, self.room - paid, side="right")]
        return spent - paid + rest <= self.most


class _Cuts:
    """How often partial choices are counted by the cuts: small numbers, several to a word.

    The top bit of each number is free. A limit with its top bit set, less a count, keeps that bit
    exactly if the count is within the limit.
    """

    def __init__(
        self, columns: Columns, measure: _Measure, free: Sequence[Ints], single: Ints
    ) -> None:
        small = np.uint8 if columns.slots < _NARROW else np.uint16
        self.largest = _NARROW if columns.slots < _NARROW else _WIDE
        self.per_word = 8 // np.dtype(small).itemsize
        top = 1 << (8 * np.dtype(small).itemsize - 1)
        self.top = np.full(self.per_word, top, small).view(np.uint64)[0]
        fixed = columns.counted[:, single].sum(1, dtype=np.int64)
        possible = fixed + sum(
            (columns.counted[:, group].any(1).astype(np.int64) for group in free),
            np.zeros(len(fixed), np.int64),
        )
        self.possible = bool((fixed <= columns.most).all())
        rows = np.flatnonzero(possible > columns.most)
        counted = [columns.counted[np.ix_(rows, group)] for group in free]
        self.small = small
        self.counted = [self._packed(one) for one in counted]
        self.start = self._packed(fixed[rows][:, None] + 1)  # one more, so that -1 can be a limit
        self.allowed = self._allowed(counted, columns.most[rows], measure) if len(rows) else []
        self.step = max(measure.width / _EDGES, np.finfo(float).tiny)

    def _packed(self, numbers: NDArray[np.integer]) -> Words:
        """Rows x n numbers as words x n."""
        words = -(-len(numbers) // self.per_word)
        padded = np.zeros((words * self.per_word, numbers.shape[1]), self.small)
        padded[: len(numbers)] = numbers
        parts = padded.reshape(words, self.per_word, numbers.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(parts).view(np.uint64)[:, :, 0]

    def _allowed(
        self, counted: Sequence[NDArray[np.int8]], most: Ints, measure: _Measure
    ) -> list[Words]:
        """After each slot, for each step of what is left to spend: the count that a cut allows.

        Deviating in a slot costs what the cheapest op costs that the cut does not count. Of the
        slots behind, so many can deviate as their least costs together fit what is left.
        """
        costs = np.array(
            [
                np.where(one == 0, reduced, np.inf).min(1)
                for one, reduced in zip(counted, measure.reduced, strict=True)
            ]
        )
        edges = np.arange(1, _EDGES + 1) * (measure.width / _EDGES) * (1 + MARGIN)
        allowed = []
        for place in range(1, len(costs) + 1):
            sums = np.cumsum(np.sort(costs[place:], axis=0), axis=0)
            deviate = (sums[:, None] <= edges[:, None]).sum(0)
            stay = len(sums) - deviate
            limits = np.clip(most - stay + 1, 0, self.largest)
            allowed.append(self._packed(limits.T) | self.top)
        return allowed

    def keep(
        self, place: int, left: Floats, before: Words, at: Ints, which: Ints
    ) -> tuple[Ints, Words]:
        """Which choices keep the cuts, and their counts.

        Args:
            place: of the slot.
            left: what each choice may still spend.
            before: counts of the partial choices that grew.
            at: place of each choice among these.
            which: op of the slot that each choice takes.
        """
        if not self.allowed:
            return np.arange(len(at)), before[:, at]
        edge = np.clip((left / self.step).astype(np.int64), 0, _EDGES - 1)
        counts = np.empty((len(before), len(at)), np.uint64)
        good = np.full(len(at), self.top)
        for word, row in enumerate(before):
            counts[word] = row[at] + self.counted[place][word][which]
            good &= self.allowed[place][word][edge] - counts[word]
        kept = np.flatnonzero(good == self.top)
        return kept, counts[:, kept]


class Walk:
    """One listing.

    Args:
        windows: relaxations of one box; a choice has to fit all of them. The first tells how
            partial choices grow, the last how far they can deviate from a cut.
        highest: regret up to which choices are listed.
        limit: of the partial choices.
        deadline: on the clock of `time.perf_counter`.
    """

    def __init__(
        self, windows: Sequence[Window], highest: float, limit: float, deadline: float
    ) -> None:
        columns = windows[0].columns
        self.columns, self.limit, self.deadline = columns, limit, deadline
        self.work = self.plans = 0
        self.found: list[Ints] = []
        fits = np.ones(len(columns.slot), bool)
        for window in windows:
            fits &= window.reduced <= window.width(highest)
        inside = np.flatnonzero(fits)
        groups = np.split(
            inside, np.searchsorted(columns.slot[inside], np.arange(1, columns.slots))
        )
        self.possible = all(len(group) for group in groups)
        if not self.possible:
            return
        self.single = np.array([group[0] for group in groups if len(group) == 1], np.int64)
        first = windows[0]
        free = _ordered(
            [group for group in groups if len(group) > 1], first.reduced, first.width(highest)
        )
        self.free = [group[np.argsort(first.reduced[group], kind="stable")] for group in free]
        least = [columns.weights[:, group].min(1) for group in self.free]
        alone = columns.weights[:, self.single].sum(1)
        self.room = FITS - alone - sum(least, np.zeros(len(alone)))
        self.weights = [
            columns.weights[:, group] - low[:, None]
            for group, low in zip(self.free, least, strict=True)
        ]
        self.measures = [_Measure(one, highest, self.free, self.single) for one in windows]
        self.cuts = _Cuts(columns, self.measures[-1], self.free, self.single)
        self.possible = self.cuts.possible and bool((self.room >= 0).all())

    def choices(self) -> Ints:
        """Every choice of the box with a regret of at most the highest that keeps all rows.

        Returns:
            One row of columns, in the order of the slots, per choice. Knapsacks are kept up to
            rounding, and a few choices may be above the highest regret.

        Raises:
            TooMany: that is too much; `work` tells how far it came.
        """
        if not self.possible:
            return np.zeros((0, self.columns.slots), np.int64)
        zeros = [np.zeros(1) for _ in self.measures]
        self._grow(zeros, zeros, np.zeros((len(self.room), 1)), self.cuts.start, [])
        found = np.concatenate([np.zeros((0, len(self.free)), np.int64), *self.found])
        single = np.broadcast_to(self.single, (len(found), len(self.single)))
        return np.sort(np.concatenate((single, found), axis=1), axis=1)

    def _grow(
        self,
        spent: list[Floats],
        paid: list[Floats],
        used: Floats,
        counts: Words,
        trail: list[tuple[Ints, Ints]],
    ) -> None:
        """Complete partial choices: by one slot, and by the others chunk by chunk."""
        place = len(trail)
        if place == len(self.free):
            self._collect(trail)
            return
        first = self.measures[0]
        grown = np.searchsorted(first.reduced[place], first.width - spent[0], side="right")
        total = int(grown.sum())
        self.work += total
        if self.work > self.limit or time.perf_counter() > self.deadline:
            raise TooMany
        at = np.repeat(np.arange(len(grown)), grown)
        which = np.arange(total) - np.repeat(np.cumsum(grown) - grown, grown)
        spending: list[Floats] = []
        paying: list[Floats] = []
        for number, measure in enumerate(self.measures):
            more = spent[number][at] + measure.reduced[place][which]
            pays = paid[number][at] + measure.paid[place][which]
            fits = more <= measure.width
            if measure.paying:
                fits &= measure.completes(place, more, pays)
            kept = np.flatnonzero(fits)
            at, which = at[kept], which[kept]
            spending = [one[kept] for one in spending] + [more[kept]]
            paying = [one[kept] for one in paying] + [pays[kept]]
        heavier = used[:, at] + self.weights[place][:, which]
        kept = np.flatnonzero((heavier <= self.room[:, None]).all(0))
        left = self.measures[-1].width - spending[-1][kept]
        kept_cuts, counts = self.cuts.keep(place, left, counts, at[kept], which[kept])
        kept = kept[kept_cuts]
        at, which, heavier = at[kept], which[kept], heavier[:, kept]
        spending, paying = [one[kept] for one in spending], [one[kept] for one in paying]
        for start in range(0, len(kept), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._grow(
                [one[part] for one in spending],
                [one[part] for one in paying],
                heavier[:, part],
                counts[:, part],
                [*trail, (at[part], which[part])],
            )

    def _collect(self, trail: list[tuple[Ints, Ints]]) -> None:
        place = np.arange(len(trail[-1][0]) if trail else 1)
        self.plans += len(place)
        if self.plans > _PLANS:
            raise TooMany
        found = []
        for (before, which), group in zip(reversed(trail), reversed(self.free), strict=True):
            found.append(group[which[place]])
            place = before[place]
        self.found.append(np.array(found, np.int64).reshape(len(found), len(place)).T)


def _ordered(groups: list[Ints], reduced: Floats, width: float) -> list[Ints]:
    """The slots in an order in which partial choices become many late: each the least next."""
    scale = _BUCKETS / width if width > 0 else 0.0
    steps = {
        number: np.bincount(
            np.minimum((reduced[group] * scale).astype(np.int64), _BUCKETS - 1),
            minlength=_BUCKETS,
        )
        for number, group in enumerate(groups)
    }
    order: list[Ints] = []
    counts = np.zeros(_BUCKETS)
    counts[0] = 1.0
    while steps:
        met = np.array(list(steps.values())) @ counts.cumsum()[::-1]
        least = list(steps)[int(met.argmin())]
        counts = np.convolve(counts, steps.pop(least))[:_BUCKETS]
        order.append(groups[least])
    return order
