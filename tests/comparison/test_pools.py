"""Table 6: pools of several sizes, drawn at random."""

from __future__ import annotations

import math
from dataclasses import replace

from lanac.comparison import compare_pools
from lanac.comparison.pools import draw_pool
from lanac.ir import IDENTITY, TEACHER
from lanac.ops.restrictions import Restrictions


def test_a_drawn_pool_has_the_teacher_and_identity(prepared):
    whole = prepared.pool
    for seed in range(5):
        drawn = draw_pool(prepared, 3, seed)
        assert list(drawn) == list(whole)
        for name, ops in drawn.items():
            assert len(ops) == min(3, len(whole[name]))
            assert ops[0] == TEACHER
            assert (IDENTITY in ops) == (IDENTITY in whole[name])
            assert list(ops) == [op for op in whole[name] if op in ops]
    pools = [draw_pool(prepared, 3, seed) for seed in range(5)]
    assert draw_pool(prepared, 3, 0) == pools[0]
    assert any(pool != pools[0] for pool in pools)
    assert draw_pool(prepared, 99, 0) == whole


def test_what_the_user_has_fixed_stays_in_every_pool(prepared):
    name, ops = next((name, ops) for name, ops in prepared.pool.items() if len(ops) > 3)
    fixed = replace(prepared, restrictions=Restrictions({name: ops[-1]}))
    for seed in range(5):
        assert ops[-1] in draw_pool(fixed, 2, seed)[name]


def test_rows(prepared, settings, little):
    table = compare_pools(prepared, settings, little)
    two, three, everything = table.rows
    assert (two.size, three.size, everything.size) == (2, 3, None)
    counts = [len(row.finalists) + row.infeasible for row in table.rows]
    assert counts == [1, 2, 1]
    assert two.ops < three.ops < everything.ops == sum(map(len, prepared.pool.values()))
    plans = math.prod(len(ops) for ops in prepared.pool.values())
    assert everything.magnitude == math.log10(plans)
    for row in table.rows:
        assert len(row.metrics) == len(row.losses()) == len(row.finalists)
        for item in row.finalists:
            assert item.plan.costs["flops"] <= 0.5 * prepared.costs.teacher["flops"]


def test_a_pool_that_cannot_meet_the_budget_is_counted(prepared, settings, little):
    costs = prepared.costs

    def least(pool):
        rows = ([costs.costs["flops"][name][op] for op in ops] for name, ops in pool.items())
        return costs.constants["flops"] + sum(map(min, rows))

    between = (least(draw_pool(prepared, 2, 0)) + least(prepared.pool)) / 2
    tight = replace(prepared, tightening={"flops": between / (0.5 * costs.teacher["flops"])})
    table = compare_pools(tight, settings, replace(little, pool_sizes=(2,)))
    assert table.rows[0].infeasible == 1
    assert table.rows[0].finalists == table.rows[0].metrics == ()
    assert table.rows[1].infeasible == 0
