"""K plans by a rising regret, or else from one best-first tree whose nodes are listed lazily.

Exact plans are first looked for without a tree (`rising`); what is left, and plans within a gap,
come from here.

The plans that are feasible for a step are feasible for every earlier one, so the open nodes of a
step stay valid for the next. The node with the lowest bound comes first: the linear relaxation
with all rows known by then gives multipliers, and if few choices lie in a useful window above the
node's bound, they are listed into a pool and the node goes back with the end of the window as its
bound; otherwise it is split. A pooled plan whose regret is at most the lowest bound is the next
plan of the sequence; its overlap row is added and the search goes on.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lanac.solver.first import lightest_best, undominated_ops
from lanac.solver.lagrange import flat_ops, lower_bounds
from lanac.solver.listing import Bools, Columns, Floats, Ints, Window
from lanac.solver.pool import Found, Pool
from lanac.solver.reduce import Cut, Reduced
from lanac.solver.rising import rise
from lanac.solver.rounding import Relaxation, Rounding
from lanac.solver.search import Search, Step
from lanac.solver.walk import Walk

_FIRST_OPS = 8  # per slot on average, in the first guess
_GAP_OPS = 24  # the same where a gap is allowed
_ROUND_AGAIN = 4  # nodes between two roundings, where a gap is allowed
_GROWTH = 1.5  # times as many ops after a guess that held too few plans
_LISTED = 30_000.0  # choices a listing may meet; less with many rows, each of which it counts
_ROWS = 16  # rows at which a listing may meet half of that
_PLANS = 3.0  # a listing has to reach as far as so many plans lie apart, or the node is split
_FIRST_STEP = 1e-4  # of the first regret: that distance before two plans are known
_LEAST_STEP = 1e-6  # of the guess: each listing gains as much at least, so that the search ends
_WINDOW_OPS = 3  # per slot on average, in the first guess for the first plan
_WINDOW = 1e5  # choices in its first window, counted with the dominated ones
_GROWTH_WINDOW = 16.0  # times as many in the next
_PATIENCE = 500  # nodes without a first plan
_GAP_PATIENCE = 20  # nodes without a further plan where a gap is allowed
_SURE = 1e-6  # an LP value this close to 1 counts as 1


@dataclass(order=True)
class _Node:
    bound: float
    number: int
    listed: float = field(compare=False)  # every plan of the box up to here is in the pool
    box: Bools = field(compare=False)


class Tree:
    """The sequence of one problem.

    Its unit of regrets is `Reduced.top`: none exceeds 1.

    Args:
        reduced: the problem; pair terms are not part of it.
        cuts: constraints from the start: forbidden sets, plans known before.
        overlap: in how many slots two plans may agree.
        relax: makes the linear relaxation of columns.
        near: whether a regret is close enough to a lower bound of it, both in the unit of scores;
            None: proven optimal.
        seed: of the rounding, which is used where a gap is allowed.
        deadline: on the clock of `time.perf_counter`.
    """

    def __init__(
        self,
        reduced: Reduced,
        cuts: Sequence[Cut],
        overlap: int,
        relax: Callable[[Columns], Relaxation],
        near: Callable[[float, float], bool] | None,
        seed: int,
        deadline: float,
    ) -> None:
        self.reduced, self.overlap, self.relax = reduced, overlap, relax
        self.cuts = [cut for cut in cuts if _can_bind(cut, reduced)]
        self.seed, self.deadline = seed, deadline
        self.unit = reduced.top
        self.score = self.unit / reduced.unit
        self.near = near and functools.partial(_scaled, near, self.score)
        ops = flat_ops(reduced)
        self.pairs, self.slot, self.regrets, self.weights = (
            ops.pairs,
            ops.slot,
            ops.regrets,
            ops.weights,
        )
        self.place = {pair: place for place, pair in enumerate(self.pairs)}
        self.low, self.prices = lower_bounds(ops)
        self.sorted_low = np.sort(self.low)
        starts = np.flatnonzero(np.diff(self.slot, prepend=-1))
        self.most_regret = 1.001 * float(np.maximum.reduceat(self.regrets, starts).sum())
        shown = (_GAP_OPS if near else _FIRST_OPS) * len(reduced.allowed)
        self.guess = self._guess_for(shown)
        self.found: list[Found] = []
        self.risen: float | None = None  # up to this regret all plans were taken in or excluded
        self.done = False  # no plan beyond those found
        self.timed_out = False
        self.stuck = False  # many nodes and no plan: let the solver find one
        self.nodes = self.accepted = 0  # all nodes, and those before the last plan

    def run(self, count: int) -> None:
        """Look for plans until there are `count`, none is left or the time is out."""
        if not self.found and not self.cuts and len(self.weights) < 2:
            self._begin()
        if not self.near and self.risen is None:
            if not self.found:
                self._branch(1)
            if not self.found:
                return
            self.risen = rise(self, count)
        self._branch(count)

    def _branch(self, count: int) -> None:
        """Look for plans by branching, up to higher and higher guesses of their regret."""
        floor = max(self.risen or 0.0, self.found[-1].bound if self.found else 0.0)
        self.guess = max(self.guess, floor)
        while len(self.found) < count and not self.done:
            self._search(floor, count)
            if len(self.found) >= count or self.timed_out or self.stuck:
                return
            floor = self.guess
            self.done = self.guess >= self.most_regret
            shown = int(np.searchsorted(self.sorted_low, self.guess, side="right"))
            apart = self._apart()
            further = self.guess + apart * (count - len(self.found)) if apart else 0.0
            self.guess = max(self._guess_for(int(_GROWTH * shown) + 1), further)
            self.guess = min(self.guess, self.most_regret)

    def _begin(self) -> None:
        """The first plan where there is one limit and nothing else, if that is not too much."""
        slots = len(self.reduced.allowed)
        shown, most = _WINDOW_OPS * slots, _WINDOW
        ahead = undominated_ops(self.slot, self.weights, self.regrets)
        while time.perf_counter() <= self.deadline:
            guess = self._guess_for(shown)
            places = ahead[self.low[ahead] <= guess]
            end = guess
            if len(np.unique(self.slot[places])) == slots:
                columns = self.columns(places)
                window = Window.at(columns, np.ones(len(places), bool), self.prices)
                end = window.furthest(guess, most)
                best = lightest_best(window, end)
                if best is None:
                    return
                if len(best):
                    choices = tuple(self.pairs[place][1] for place in places[best])
                    regret = self.reduced.regret(choices) / self.unit
                    if regret <= end:  # choices above may be missing
                        if self.reduced.violated(choices):
                            return
                        self.found.append(Found(choices, regret, regret))
                        self.cuts.append(Cut(tuple(enumerate(choices)), self.overlap))
                        return
            if end >= self.most_regret:
                return
            most *= _GROWTH_WINDOW
            shown = 2 * shown if end >= guess else shown

    def take(self, choices: tuple[int, ...], bound: float) -> None:
        """Take in the next plan from outside, after being stuck."""
        regret = self.reduced.regret(choices) / self.unit
        self.found.append(Found(choices, regret, min(bound / self.score, regret)))
        self.cuts.append(Cut(tuple(enumerate(choices)), self.overlap))
        self.stuck = False

    def _guess_for(self, ops: int) -> float:
        """The regret up to which about this many ops are in question."""
        if ops >= len(self.low):
            return self.most_regret
        # An op's bound can exceed every regret; a guess of 0 would have no scale.
        return float(min(self.sorted_low[ops], self.most_regret)) or self.most_regret

    def _apart(self) -> float:
        """How far the regrets of plans found one after the other lie apart, on average."""
        if len(self.found) < 2:
            return 0.0
        return (self.found[-1].regret - self.found[0].regret) / (len(self.found) - 1)

    def _step(self) -> float:
        """How far a listing has to reach to be worth it."""
        first = self.found[0].regret if self.found else self.guess
        return max(_PLANS * self._apart(), _FIRST_STEP * first, _LEAST_STEP * self.guess)

    def _patience(self) -> float:
        """Nodes without a plan: for feasibility, or within a gap, the solver may be better."""
        if self.near:
            return _GAP_PATIENCE
        return math.inf if self.found else _PATIENCE

    def _search(self, floor: float, count: int) -> None:
        """All plans with a regret above the floor and of at most the guess, in order."""
        shown = np.flatnonzero(self.low <= self.guess)
        if len(np.unique(self.slot[shown])) < len(self.reduced.allowed):
            return
        columns = self.columns(shown)
        relaxed = self.relax(columns)
        pool = Pool(self.reduced, columns, [self.pairs[place] for place in shown])
        rounding = Rounding(columns, self.relax, self.seed) if self.near else None
        numbers = itertools.count(0, -1)  # among equal bounds the newest, and so deepest, first
        heap = [_Node(floor, next(numbers), -1.0, np.ones(len(shown), bool))]
        while heap:
            node = heapq.heappop(heap)
            if len(self.found) < count and (plan := pool.next(node.bound, self.near)):
                self.accept(plan, node.bound, columns, relaxed)
                heapq.heappush(heap, node)
                continue
            if len(self.found) >= count:
                return
            if rounding and self.near and (self.nodes - self.accepted) % _ROUND_AGAIN == 1:
                enough = functools.partial(_within, self.near, node.bound)
                pool.add(rounding.plans(enough), -1.0, math.inf)
                heapq.heappush(heap, node)
                self.nodes += 1
                continue
            if time.perf_counter() > self.deadline:
                self.timed_out = True
                self._give_out(pool, count, node.bound, columns)
                return
            if self.nodes - self.accepted > self._patience():
                self.stuck = True
                self.accepted = self.nodes
                return
            for child in self._work(node, columns, relaxed, pool, heap[0].bound if heap else None):
                child.number = next(numbers)
                heapq.heappush(heap, child)
        while len(self.found) < count and (plan := pool.next(self.guess, self.near)):
            self.accept(plan, min(self.guess, plan.regret), columns, relaxed)

    def _give_out(self, pool: Pool, count: int, bound: float, columns: Columns) -> None:
        """The time is out: what the pool holds, best first, not proven to be the best."""
        while len(self.found) < count and (plan := pool.next(bound, lambda *_: True)):
            cut = Cut(tuple(enumerate(plan.choices)), self.overlap)
            self.found.append(Found(plan.choices, plan.regret, min(bound, plan.regret)))
            columns.add_cut(self._counted(cut), cut.most)

    def columns(self, shown: Ints) -> Columns:
        """The ops in question with all cuts known."""
        columns = Columns(
            self.slot[shown],
            self.regrets[shown],
            self.weights[:, shown],
            np.zeros((0, len(shown)), np.int8),
            np.zeros(0, np.int64),
        )
        where = np.full(len(self.pairs), -1)
        where[shown] = np.arange(len(shown))
        self.where = where
        for cut in self.cuts:
            columns.add_cut(self._counted(cut), cut.most)
        return columns

    def _counted(self, cut: Cut) -> Ints:
        places = [self.place[pair] for pair in cut.pairs if pair in self.place]
        columns = self.where[np.array(places, np.int64)]
        return columns[columns >= 0]

    def accept(self, plan: Found, bound: float, columns: Columns, relaxed: Relaxation) -> None:
        """Take in the next plan, and its cut into the columns and their relaxation."""
        self.found.append(Found(plan.choices, plan.regret, min(bound, plan.regret)))
        cut = Cut(tuple(enumerate(plan.choices)), self.overlap)
        self.cuts.append(cut)
        self.accepted = self.nodes - 1
        counted = self._counted(cut)
        columns.add_cut(counted, cut.most)
        relaxed.add_cut(counted, cut.most)

    def _work(
        self,
        node: _Node,
        columns: Columns,
        relaxed: Relaxation,
        pool: Pool,
        other: float | None,
    ) -> list[_Node]:
        """Bound the node, then list it or split it, or put it back if another one is lower."""
        self.nodes += 1
        prices, values = relaxed(node.box)
        window = Window.at(columns, node.box, prices)
        bound = max(window.bound, node.bound)
        if bound > self.guess:
            return []
        step = self._step()
        if other is not None and bound > other + step:
            return [_Node(bound, 0, node.listed, node.box)]
        most = max(_LISTED * _ROWS / (_ROWS + len(columns.most)), 1.0)
        end = window.furthest(self.guess, most)
        if end >= min(self.guess, bound + step):
            walk = Walk([window], end, math.inf, math.inf)
            pool.add(walk.choices(), node.listed, end)
            return [] if end >= self.guess else [_Node(end, 0, end, node.box)]
        box = node.box & (window.reduced <= window.width(self.guess))
        return [
            _Node(bound, 0, node.listed, half) for half in _halves(columns, box, values, window)
        ]


def _halves(columns: Columns, box: Bools, values: Floats, window: Window) -> list[Bools]:
    """The box with and without the most likely op of the slot that is least decided."""
    best: tuple[float, Ints] | None = None
    for start, size in zip(columns.starts, columns.sizes, strict=True):
        group = start + np.flatnonzero(box[start : start + size])
        if len(group) > 1 and (best is None or values[group].max() < best[0]):
            best = (float(values[group].max()), group)
    if best is None:  # one choice, which a listing would have met
        return []
    sure, group = best
    by_value = sure < 1 - _SURE
    likely = group[values[group].argmax() if by_value else window.reduced[group].argmin()]
    with_it, without = box.copy(), box.copy()
    with_it[group] = False
    with_it[likely] = True
    without[likely] = False
    return [with_it, without]


def tree_steps(tree: Tree, search: Search, count: int) -> list[Step]:
    """The sequence by the tree, as steps; where it is stuck, the solver helps."""
    tree.run(count)
    while tree.stuck:
        helped = search.best_plan(tree.cuts)
        if helped.choices is not None:
            tree.take(helped.choices, math.inf if helped.bound is None else helped.bound)
        tree.done, tree.timed_out = helped.choices is None, helped.timed_out
        if tree.done or tree.timed_out:
            break
        tree.run(count)
    steps = [
        Step(plan.choices, None if plan.bound >= plan.regret else plan.bound * tree.score, False)
        for plan in tree.found
    ]
    if tree.timed_out:
        return [*steps, Step(None, None, timed_out=True)]
    return steps if len(steps) == count else [*steps, Step(None, None, timed_out=False)]


def _can_bind(cut: Cut, reduced: Reduced) -> bool:
    """Whether more ops of the cut could be chosen than it allows."""
    return len({slot for slot, op in cut.pairs if op in reduced.allowed[slot]}) > cut.most


def _scaled(
    near: Callable[[float, float], bool], score: float, regret: float, bound: float
) -> bool:
    return near(regret * score, bound * score)


def _within(near: Callable[[float, float], bool], bound: float, regret: float) -> bool:
    return near(regret, bound)
