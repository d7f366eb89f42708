"""The first plan under one limit against enumeration."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanac.solver import SelectionStatus, first, solve, tree, verify_plan

NUMBERS = [
    st.floats(0, 1),
    st.integers(0, 4).map(float),
    st.sampled_from([0.1, 0.2, 0.3, 0.7, 1e-9, 2e9]),
    st.sampled_from([0.0, 5e-324, 1e-310, 1.0]),
]


@st.composite
def one_limit(draw):
    """Scores, costs, a limit: without anything that couples the slots but the limit."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    score, cost = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(NUMBERS))
    costs = [[draw(cost) for _ in range(size)] for size in sizes]
    proportional = draw(st.booleans())
    scores = [
        [-value if proportional else draw(score) for value in row] for row in costs
    ]  # fmt: skip
    some = sum(row[draw(st.integers(0, len(row) - 1))] for row in costs)
    return scores, costs, some * draw(st.sampled_from([1.0, 1.1, 0.9]))


@settings(max_examples=200)
@given(given_problem=one_limit())
def test_first_plan_equals_enumeration(build, given_problem):
    scores, costs, limit = given_problem
    problem = build(scores, costs={"ms": costs}, limits={"ms": limit})

    def total(table, plan):
        return sum((Fraction(row[op]) for row, op in zip(table, plan, strict=True)), Fraction(0))

    plans = itertools.product(*(range(len(row)) for row in costs))
    left = [total(scores, plan) for plan in plans if total(costs, plan) <= Fraction(limit)]
    answer = solve(problem, time_limit_s=600)
    if not left:
        assert answer.status is SelectionStatus.INFEASIBLE
        return
    assert answer.status is SelectionStatus.OPTIMAL
    verify_plan(problem, answer.plans[0], [])
    size = sum(max(map(abs, row)) for row in scores)
    assert answer.plans[0].score == pytest.approx(float(min(left)), rel=0, abs=1e-12 * size)


def correlated(slots, ops, seed):
    draw = np.random.default_rng(seed)
    costs = np.sort(draw.uniform(0.01, 1, (slots, ops)), axis=1)
    scores = costs[:, -1:] - costs + draw.uniform(0, 0.02, (slots, ops))
    return scores.tolist(), costs.tolist()


def test_scores_proportional_to_costs_need_no_tree(build, monkeypatch):
    """What the tree and SCIP do not prove within minutes, 46 slots of 60 ops."""
    monkeypatch.setattr(tree.Tree, "_search", None)
    scores, costs = correlated(46, 60, 0)
    answer = solve(build(scores, costs={"ms": costs}, limits={"ms": 20.0}), time_limit_s=600)
    assert answer.status is SelectionStatus.OPTIMAL


@pytest.mark.parametrize("limit", [1.0, 2.0, 3.0, 4.0])
def test_first_plan_is_that_of_scip(build, limit):
    scores, costs = correlated(8, 12, 1)
    problem = build(scores, costs={"ms": costs}, limits={"ms": limit})
    one, two = solve(problem), solve(problem, method="scip")
    assert one.plans[0].score == pytest.approx(two.plans[0].score, rel=1e-7)


def test_too_many_partial_choices_are_left_to_the_tree(build, monkeypatch):
    scores, costs = correlated(8, 12, 1)
    problem = build(scores, costs={"ms": costs}, limits={"ms": 3.0}, plan_count=2)
    by_list = solve(problem)
    monkeypatch.setattr(first, "_STATES", 0)
    by_tree = solve(problem)
    assert by_tree.status is by_list.status is SelectionStatus.OPTIMAL
    assert [plan.score for plan in by_tree.plans] == [plan.score for plan in by_list.plans]


def test_undominated():
    weights = np.array([3.0, 1.0, 2.0, 1.0, 2.0, 4.0])
    regrets = np.array([1.0, 5.0, 5.0, 5.0, 3.0, 1.0])
    assert first.undominated(weights, regrets).tolist() == [1, 4, 0]
