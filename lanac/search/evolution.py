"""Regularised evolution: tournaments among the living, and the oldest dies.

Source: Real et al., *Regularized Evolution for Image Classifier Architecture Search* (AAAI 2019),
algorithm 1. Mutations stay within the budget: they draw one or two slots anew from all that fits.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from lanac.search.base import Judge, Ledger, SearchOptions
from lanac.search.random_plans import draw_plans
from lanac.search.space import Choices, Space

_POPULATION, _LEAST = 32, 4
_TRIES = 20
"""Mutations tried for a child that differs from its parent."""
_IDLE = 100
"""Children in a row that have been judged before, after which the space counts as exhausted."""


def search(space: Space, judge: Judge, options: SearchOptions, seed: int) -> list[Choices]:
    """The best plans of all generations."""
    rng = np.random.default_rng(seed)
    ledger = Ledger(judge, options.evaluations)
    size = max(_LEAST, min(_POPULATION, options.evaluations // 4))
    alive = deque(draw_plans(space, min(size, options.evaluations), seed))
    ledger.losses(list(alive))
    rivals = max(2, len(alive) // 4)
    idle = 0
    while ledger.left > 0 and idle < _IDLE:
        chosen = [alive[place] for place in rng.integers(len(alive), size=rivals)]
        losses = ledger.losses(chosen)
        child = mutate(space, chosen[losses.index(min(losses))], rng)
        idle = idle + 1 if ledger.knows(child) else 0
        ledger.losses([child])
        alive.append(child)
        alive.popleft()
    return ledger.best(options.keep)


def mutate(space: Space, parent: Choices, rng: np.random.Generator) -> Choices:
    """A plan that differs from its parent in one or two slots; the parent where there is none."""
    for _ in range(_TRIES):
        count = min(int(rng.integers(1, 3)), space.slots)
        slots = rng.choice(space.slots, size=count, replace=False).tolist()
        child = space.redraw(parent, slots, rng)
        if child != parent:
            return child
    return parent
