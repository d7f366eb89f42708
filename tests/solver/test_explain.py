"""Infeasible problems say what could be reached and what binds."""

from __future__ import annotations

from lanac.solver import SelectionStatus, solve

SCORES = [[0.0, 1.0], [0.0, 1.0]]
MS = [[4.0, 1.0], [4.0, 1.0]]
MB = [[1.0, 4.0], [1.0, 4.0]]


def explained(problem):
    answer = solve(problem)
    assert answer.status is SelectionStatus.INFEASIBLE
    assert answer.plans == ()
    return answer.smallest, answer.binding


def test_one_limit_out_of_reach(build):
    problem = build(
        SCORES,
        costs={"ms": MS, "mb": MB, "free": MS},
        constants={"ms": 0.5},
        limits={"ms": 2.0, "mb": 9.0},
    )
    assert explained(problem) == ({"ms": 2.5, "mb": 2.0}, ("ms",))


def test_each_limit_in_reach_but_not_both(build):
    problem = build(SCORES, costs={"ms": MS, "mb": MB}, limits={"ms": 4.0, "mb": 4.0})
    assert explained(problem) == ({"ms": 2.0, "mb": 2.0}, ("ms", "mb"))


def test_fixed_and_forbidden_count(build):
    problem = build(
        [[0.0, 1.0]] * 3,
        costs={"ms": [*MS, [4.0, 1.0]]},
        limits={"ms": 8.0},
        fixed={0: 0},
        forbidden=(((1, 1), (2, 1)),),
    )
    assert explained(problem) == ({"ms": 9.0}, ("ms",))


def test_forbidden_alone_leaves_nothing(build):
    problem = build(SCORES, costs={"ms": MS}, limits={"ms": 9.0}, forbidden=(((0, 0),), ((0, 1),)))
    assert explained(problem) == ({}, ())


def test_smallest_is_rounded_up_so_that_it_can_be_met(build):
    costs = {"ms": [[0.1], [0.1], [0.1]]}  # exactly a little above 0.3
    smallest, binding = explained(build([[0.0]] * 3, costs=costs, limits={"ms": 0.3}))
    assert (smallest, binding) == ({"ms": 0.30000000000000004}, ("ms",))
    met = solve(build([[0.0]] * 3, costs=costs, limits=smallest))
    assert met.status is SelectionStatus.OPTIMAL
