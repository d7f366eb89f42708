"""What waits until it is the next plan."""

from __future__ import annotations

import numpy as np

from lanac.solver.listing import Columns
from lanac.solver.pool import Pool
from lanac.solver.reduce import reduce_problem


def pool_of(problem):
    """All nine choices of two slots with three ops each."""
    reduced = reduce_problem(problem)
    pairs = [(slot, op) for slot in range(2) for op in range(3)]
    regrets = np.array([reduced.regrets[slot][op] / reduced.top for slot, op in pairs])
    columns = Columns(
        np.repeat([0, 1], 3), regrets, np.zeros((0, 6)), np.zeros((0, 6), np.int8), np.zeros(0, int)
    )
    pool = Pool(reduced, columns, pairs)
    choices = np.array([(one, 3 + two) for one in range(3) for two in range(3)])
    return pool, choices, columns, reduced


def test_plans_come_in_order_and_only_below_the_bound(build):
    problem = build([[0.0, 1.0, 2.0], [0.0, 0.25, 0.5]])
    pool, choices, columns, reduced = pool_of(problem)
    unit = reduced.top / reduced.unit
    pool.add(choices, -1.0, 0.5 / unit)
    first = pool.next(0.1 / unit, None)
    assert first is not None
    assert (first.choices, first.regret) == ((0, 0), 0.0)
    columns.add_cut(np.array([0, 3]), 1)
    assert pool.next(0.1 / unit, None) is None
    near = pool.next(0.1 / unit, lambda regret, bound: regret - bound < 0.2 / unit)
    assert near is not None
    assert near.choices == (0, 1)
    columns.add_cut(np.array([0]), 0)
    assert pool.next(9.0, None) is None  # what was above the highest regret was not taken in


def test_of_equal_plans_the_first_one_that_keeps_the_limit_exactly(build):
    """Three tenths as a float are less than three times a tenth."""
    costs = [[0.1, 0.1, 0.0], [0.2, 0.1, 0.0]]
    problem = build([[0.0] * 3] * 2, costs={"ms": costs}, limits={"ms": 0.3})
    pool, choices, _, _ = pool_of(problem)
    pool.add(choices, -1.0, 1.0)
    found = pool.next(1.0, None)
    assert found is not None
    assert found.choices == (0, 1)
