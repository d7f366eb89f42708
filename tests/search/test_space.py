"""Plans under a budget: drawn evenly, changed without leaving it, verified exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanac.errors import SelectionError
from lanac.search.random_plans import draw_plans


@pytest.mark.parametrize("resources", [1, 2])
@pytest.mark.parametrize("share", [0.9, 0.4])
def test_plans_are_drawn_evenly(make, space_of, every_plan, share, resources):
    space = space_of(make(4, 3, seed=3, share=share, resources=resources))
    plans = every_plan(space)
    rng = np.random.default_rng(0)
    plan, counts = space.start, Counter()
    draws = 30 * len(plans)
    for _ in range(draws):
        plan = space.draw(plan, rng)
        counts[plan] += 1
    assert set(counts) == set(plans)
    # Chi-squared over plans; its deviation is the root of twice the degrees of freedom.
    free = len(plans) - 1
    statistic = sum((counts[plan] - 30) ** 2 / 30 for plan in plans)
    assert statistic < free + 5 * (2 * free) ** 0.5 + 5


def test_a_budget_that_few_plans_meet_is_no_trouble(make, space_of, every_plan):
    """Where rejection would try for ever: all plans are found, and then the search for more ends."""
    space = space_of(make(7, 3, seed=5, share=0.04))
    plans = every_plan(space)
    assert 1 < len(plans) < 20
    assert set(draw_plans(space, 50, seed=0)) == set(plans)
    many = space_of(make(40, 50, seed=5, share=1e-4))
    assert len(draw_plans(many, 20, seed=0)) == 20


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_what_is_fixed_forbidden_or_limited_stays_so(make, space_of, seed):
    problem = replace(
        make(6, 4, seed=seed % 50, share=0.6),
        fixed={1: 2},
        forbidden=(((0, 1),), ((2, 1), (3, 1))),
        own=(0,) * 6,
        max_changed=4,
    )
    space, rng = space_of(problem), np.random.default_rng(seed)
    plan = space.start
    for _ in range(10):
        plan = space.draw(plan, rng)
        space.verified(plan)  # raises where anything is broken
        assert plan[1] == 2 and plan[0] != 1 and (plan[2], plan[3]) != (1, 1)
        assert sum(op != 0 for op in plan) <= 4


def test_limits_are_kept_exactly(make, space_of):
    """Three costs of 0.1 exceed 0.3 as floats; 0.75 is the sum of three quarters."""
    problem = replace(
        make(3, 2, seed=0),
        costs={"cost0": ((0.1, 0.25),) * 3},
        constants={},
        limits={"cost0": 0.75},
    )
    assert space_of(problem).allows((1, 1, 1))
    tight = replace(problem, costs={"cost0": ((0.0, 0.1),) * 3}, limits={"cost0": 0.3})
    assert not space_of(tight).allows((1, 1, 1))
    assert space_of(tight).allows((1, 1, 0))


def test_a_start_that_breaks_the_budget_is_a_fault(make, space_of):
    space = space_of(make(3, 2, seed=0, share=0.3))
    with pytest.raises(ValueError, match=r"^the plan to start from, \(0, 0, 0\), breaks a limit$"):
        type(space)(space.problem, (0, 0, 0))


def test_a_plan_that_breaks_the_budget_is_not_verified(make, space_of):
    space = space_of(make(3, 2, seed=0, share=0.3))
    with pytest.raises(SelectionError, match=r"^plan check, 'cost0': expected a total of at most"):
        space.verified((0, 0, 0))


def test_the_nearest_plan_changes_as_little_as_it_can(make, space_of, every_plan):
    space = space_of(make(5, 3, seed=2, share=0.4, resources=2))
    wish = (0,) * 5

    def alike(plan):
        return sum(a == b for a, b in zip(plan, wish, strict=True))

    nearest = space.nearest(wish, seed=0)
    assert space.allows(nearest)
    assert alike(nearest) == max(map(alike, every_plan(space)))


def test_open_ops_leave_enough_for_the_rest(make, space_of, every_plan):
    space = space_of(make(4, 3, seed=7, share=0.2))
    plans = every_plan(space)
    for plan in plans:
        used = space.nothing
        for slot, op in enumerate(plan):
            is_open = space.open_ops(slot, used)
            going_on = {other[slot] for other in plans if other[:slot] == plan[:slot]}
            assert set(np.flatnonzero(is_open).tolist()) == going_on
            used = space.take(slot, op, used)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_drawn_plans_use_the_budget(make, space_of, share):
    space = space_of(make(10, 6, seed=8, share=share))
    least = space.verified(space.start).costs["cost0"]
    limit = space.problem.limits["cost0"]
    plans = draw_plans(space, 40, seed=0)
    assert len(set(plans)) == 40
    for plan in plans:
        used = space.verified(plan).costs["cost0"] - least
        assert 0.9 * (limit - least) - 1e-9 <= used <= limit - least


def test_where_no_plan_uses_the_budget_any_is_drawn(make, space_of):
    """One op costs all, the other nothing, and nothing is left for the first."""
    problem = replace(
        make(3, 2, seed=0),
        costs={"cost0": ((1.0, 0.0), (5.0, 0.0), (5.0, 0.0))},
        constants={},
        limits={"cost0": 4.0},
    )
    assert set(draw_plans(space_of(problem), 9, seed=0)) == {(0, 1, 1), (1, 1, 1)}
