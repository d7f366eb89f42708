"""Figure 4: drawn and selected plans at several budgets, and Kendall's tau."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.comparison import compare_ranking
from lanac.comparison.ranking import budget_ratios, kendall_tau
from lanac.errors import CommandError
from lanac.passes.select_plans import selection_problem
from lanac.targets import parse_budgets


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 4 / 6),
        # Two ties in 6 pairs of the first, none in the second: 4 / sqrt(4 * 6).
        ([1, 1, 2, 2], [1, 2, 3, 4], 4 / math.sqrt(24)),
        ([1, 2, 3], [1, 2, math.inf], 1.0),
    ],
)
def test_kendalls_tau(first, second, tau):
    assert kendall_tau(first, second) == pytest.approx(tau)


def test_no_order_has_no_tau():
    assert math.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_tau_is_symmetric_and_bounded(pairs):
    first, second = zip(*pairs, strict=True)
    tau = kendall_tau(first, second)
    if math.isnan(tau):
        return
    assert -1 - 1e-12 <= tau <= 1 + 1e-12
    assert tau == pytest.approx(kendall_tau(second, first))
    assert kendall_tau([-value for value in first], second) == pytest.approx(-tau)


def test_plans_keep_their_budgets(prepared, settings, little):
    ranking = compare_ranking(prepared, settings, replace(little, random_plans=22))
    teacher = prepared.costs.teacher["flops"]
    assert [len(budget.drawn) for budget in ranking.budgets] == [5, 5, 4, 4, 4]
    ratios = [budget.ratio for budget in ranking.budgets]
    assert ratios == sorted(ratios) and ratios[-1] < 1
    for budget in ranking.budgets:
        for item in (*budget.drawn, *budget.selected):
            assert item.plan.costs["flops"] <= budget.ratio * teacher
        scores = [item.plan.score for item in budget.selected]
        assert scores == sorted(scores)
        assert min(item.plan.score for item in budget.drawn) >= scores[0]
        assert budget.best[1] == budget.selected[0].loss
        assert set(budget.best) == {k for k in (1, 10, 100) if k <= len(budget.selected)}
        if 10 in budget.best:
            assert budget.best[10] <= budget.best[1]
    assert 0 < ranking.tau_drawn <= 1
    assert ranking.images == 64
    assert 0 < ranking.teacher_loss < min(item.loss for item in ranking.budgets[0].drawn)


def test_budgets_lie_within_what_can_be_reached(prepared):
    problem = selection_problem(prepared, 1, 1.0)
    ratios = budget_ratios(problem, "flops", prepared.costs.teacher["flops"])
    least = problem.constants["flops"] + sum(map(min, problem.costs["flops"]))
    assert len(ratios) == 5
    assert least / prepared.costs.teacher["flops"] < ratios[0]
    steps = [b - a for a, b in itertools.pairwise(ratios)]
    assert steps == pytest.approx([steps[0]] * 4)


def test_a_maximum_cannot_be_varied(prepared, settings, little):
    budget = parse_budgets("memory=0.9x")[0]
    with pytest.raises(CommandError) as error:
        compare_ranking(replace(prepared, budget=budget), settings, little)
    assert str(error.value) == (
        "budget memory=0.9x: a ranking needs a budget of latency, params or flops"
    )
