"""The steps of one sequence: exact answers out of a solver that works with tolerances.

A plan that exceeds a limit in exact arithmetic is cut off by a valid inequality and the step is
solved again. Scores are scaled anew if the optimum is far from the scale the solver was given.
Only ops that can be in a plan of at most a guessed regret are shown to the solver; a plan within
the guess is optimal among all plans, otherwise the guess is raised and the step solved again.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from lanac.solver.lagrange import op_bounds
from lanac.solver.problem import Pair
from lanac.solver.reduce import Cut, Reduced

_CAP = 1e6  # scaled scores above are cut to this: a lower bound that keeps the LP well scaled
_FINE = 1e-4  # an optimum below this many scales may drown in a tolerance of 1e-9
_LEAST_SCALE = sys.float_info.min
_FIRST_OPS = 8  # per slot on average, in the first guess
_GROWTH = 4  # times as many ops after a guess that no plan meets


class End(Enum):
    """How one call of the solver ended."""

    OPTIMAL = "optimal"
    GAP = "gap reached"
    NONE = "no plan"
    TIME = "time"


@dataclass(frozen=True)
class Model:
    """What the solver is given for one call; regrets in the unit `Reduced.top`.

    Attributes:
        scores: scaled regret of each (slot, op) that it may choose.
        pairs: scaled coefficients of the pair terms; below 0, paid if not both are chosen.
        cuts: constraints beyond the knapsacks.
        scale: regret of a scaled score of 1.
        seconds: time limit.
    """

    scores: dict[Pair, float]
    pairs: dict[tuple[Pair, Pair], float]
    cuts: Sequence[Cut]
    scale: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """What one call of the solver gave: plans, best first, and a lower bound on the regret."""

    end: End
    found: list[tuple[int, ...]]
    bound: float


@dataclass(frozen=True)
class Step:
    """The best plan of one step, if any; `bound`, in scores, is None if it is proven."""

    choices: tuple[int, ...] | None
    bound: float | None
    timed_out: bool


class Search:
    """One sequence of plans; what a step learns (covers, scale, guess) serves the next.

    Args:
        reduced: the problem.
        run: one call of the solver.
        deadline: on the clock of `time.perf_counter`.
    """

    def __init__(self, reduced: Reduced, run: Callable[[Model], Run], deadline: float) -> None:
        self.reduced, self.run, self.deadline = reduced, run, deadline
        self.covers: list[Cut] = []
        self.top, self.score = reduced.top, reduced.top / reduced.unit
        self.begun = False

    def _begin(self) -> None:
        """Prepare the first call, which may never come."""
        self.begun = True
        self.bounds = op_bounds(self.reduced)
        self.sorted_bounds = sorted(self.bounds.values())
        self.guess = self._guess_for(_FIRST_OPS * len(self.reduced.allowed))
        positive = [regret for pair in self.bounds if (regret := self._regret(pair)) > 0]
        positive += [abs(units) / self.top for units in self.reduced.pairs.values()]
        self.scale = max(statistics.median(positive), _LEAST_SCALE) if positive else 1.0

    def best_plan(self, cuts: Sequence[Cut]) -> Step:
        """The best plan under the cuts that keeps every limit exactly."""
        if not self.begun:
            self._begin()
        best: tuple[int, ...] | None = None
        bound = 0.0
        while (left := self.deadline - time.perf_counter()) > 0:
            rows = [*cuts, *self.covers]
            run = self.run(Model(self._scores(), self._pairs(), rows, self.scale, left))
            bound = max(bound, min(run.bound, self.guess))
            broken = [self.reduced.violated(choices) for choices in run.found]
            kept = [c for c, b in zip(run.found, broken, strict=True) if not b]
            best = min([*kept, *([best] if best else [])], key=self.reduced.regret, default=None)
            if run.end is End.TIME:
                break
            if run.end is not End.NONE and broken[0]:
                self.covers += broken[0]
                continue
            if best is None:
                if self.guess == math.inf:
                    return Step(None, None, timed_out=False)
                shown = sum(value <= self.guess for value in self.sorted_bounds)
                self.guess = self._guess_for(_GROWTH * shown)
                continue
            regret = self.reduced.regret(best) / self.top
            fits = self._fits(best)
            if regret <= self.guess and fits:
                proven = run.end in (End.OPTIMAL, End.NONE)
                return Step(best, None if proven else bound * self.score, timed_out=False)
            self.guess = regret if not fits else max(self.guess, regret)
            if not fits:
                self.scale = max(regret / len(best), _LEAST_SCALE)
        return Step(best, bound * self.score, timed_out=True)

    def _guess_for(self, ops: int) -> float:
        """The regret up to which about this many ops are in question."""
        return self.sorted_bounds[ops] if ops < len(self.sorted_bounds) else math.inf

    def _regret(self, pair: Pair) -> float:
        return self.reduced.regrets[pair[0]][pair[1]] / self.top

    def _scores(self) -> dict[Pair, float]:
        return {
            pair: min(self._regret(pair) / self.scale, _CAP)
            for pair, bound in self.bounds.items()
            if bound <= self.guess
        }

    def _pairs(self) -> dict[tuple[Pair, Pair], float]:
        largest = _CAP * self.scale
        return {
            pair: max(-largest, min(units / self.top, largest)) / self.scale
            for pair, units in self.reduced.pairs.items()
        }

    def _fits(self, choices: tuple[int, ...]) -> bool:
        """Whether the regret is neither too small for the tolerance nor cut to the cap."""
        regrets = [self._regret(pair) / self.scale for pair in enumerate(choices)]
        regrets.append(self.reduced.pair_regret(choices) / self.top / self.scale)
        fine = self.scale <= _LEAST_SCALE  # as fine as floats go
        return max(regrets) <= _CAP and (fine or sum(regrets) >= _FINE or not any(regrets))


def one_by_one(search: Search, cuts: Sequence[Cut], count: int, overlap: int) -> list[Step]:
    """The sequence by one call of the solver for each plan; ends with a step without a plan."""
    rows, steps = list(cuts), []
    for _ in range(count):
        step = search.best_plan(rows)
        steps.append(step)
        if step.choices is None or step.timed_out:
            break
        rows.append(Cut(tuple(enumerate(step.choices)), overlap))
    return steps
