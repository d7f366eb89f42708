"""Random search: plans drawn evenly from those that keep the budget and use it (paper, Table 5)."""

from __future__ import annotations

import numpy as np

from lanac.search.base import Judge, Ledger, SearchOptions
from lanac.search.space import Choices, Space

_BURN_IN = 20
_USED = 0.9
"""Share of the room between the cheapest plan and the limit that a drawn plan uses."""
_PATIENCE = 200
"""Draws in a row that give nothing new, after which the space counts as exhausted."""
_GROUP = 16
"""Plans judged at a time."""


def search(space: Space, judge: Judge, options: SearchOptions, seed: int) -> list[Choices]:
    """The best of as many random plans as may be judged."""
    ledger = Ledger(judge, options.evaluations)
    plans = draw_plans(space, options.evaluations, seed)
    for first in range(0, len(plans), _GROUP):
        ledger.losses(plans[first : first + _GROUP])
    return ledger.best(options.keep)


def draw_plans(space: Space, count: int, seed: int) -> list[Choices]:
    """Up to `count` plans, no two alike; fewer where the space seems to hold no more.

    They use most of the budget, which most plans of a large pool are far below: evenly drawn from
    these, and from all others only where there are too few.
    """
    rng = np.random.default_rng(seed)
    found: dict[Choices, None] = {}
    for part in (space.using(_USED), space):
        if part is None or len(found) == count:
            continue
        plan, failures = part.draw(part.start, rng, _BURN_IN), 0
        while len(found) < count and failures < _PATIENCE:
            failures = failures + 1 if plan in found else 0
            found[plan] = None
            plan = part.draw(plan, rng)
    return list(found)
