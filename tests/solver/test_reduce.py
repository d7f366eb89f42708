"""Exact reductions and cuts against enumeration."""

from __future__ import annotations

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from lanac.solver.lagrange import op_bounds
from lanac.solver.reduce import integers, reduce_problem

values = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 1.0, 1.0 + 1e-12, 3e9])
tables = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(values, min_size=2, max_size=3), min_size=n, max_size=n)
)


def test_integers_are_exact():
    rows, extra, unit = integers(((0.1, 1e9), (3.0,)), (0.3,))
    assert [[Fraction(value, unit) for value in row] for row in rows] == [
        [Fraction(0.1), Fraction(10**9)],
        [Fraction(3)],
    ]
    assert Fraction(extra[0], unit) == Fraction(0.3)


@given(costs=tables, limit=st.sampled_from([0.3, 0.6, 1.0, 1.3, 3.0, 6e9]))
def test_reduction_and_cuts_lose_no_plan(build, costs, limit):
    problem = build([[0.0] * len(row) for row in costs], costs={"ms": costs}, limits={"ms": limit})
    every = list(itertools.product(*(range(len(row)) for row in costs)))
    fits = {
        plan
        for plan in every
        if sum(Fraction(row[op]) for row, op in zip(costs, plan, strict=True)) <= Fraction(limit)
    }
    reduced = reduce_problem(problem)
    if reduced is None:
        assert not fits
        return
    rest = set(itertools.product(*reduced.allowed))
    assert fits <= rest
    for plan in rest:
        cuts = reduced.violated(plan)
        assert bool(cuts) == (plan not in fits)
        for cut in cuts:

            def counted(choices, pairs=frozenset(cut.pairs)):
                return sum(pair in pairs for pair in enumerate(choices))

            assert counted(plan) > cut.most
            assert all(counted(other) <= cut.most for other in fits)


@given(data=st.data(), costs=tables)
def test_op_bounds_are_below_every_plan(build, data, costs):
    scores = [[data.draw(st.floats(-1, 1)) for _ in row] for row in costs]
    other = [[data.draw(st.floats(0, 1)) for _ in row] for row in costs]
    limits = {"ms": data.draw(st.sampled_from([0.6, 1.3, 3.0, 6e9])), "other": len(costs) / 2}
    reduced = reduce_problem(build(scores, costs={"ms": costs, "other": other}, limits=limits))
    if reduced is None:
        return
    bounds = op_bounds(reduced)
    for plan in itertools.product(*reduced.allowed):
        if not reduced.violated(plan):
            regret = reduced.regret(plan) / reduced.top
            assert all(bounds[pair] <= regret for pair in enumerate(plan))
