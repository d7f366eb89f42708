"""Sequences by a rising regret against one call of SCIP per plan, and where the tree goes on."""

from __future__ import annotations

import numpy as np
import pytest

from lanac.solver import SelectionStatus, rising, solve, tree, verify_plan


def instance(build, slots, ops, seed, noise, plans, limits=1, **fields):
    """Ops around one curve of costs and scores; little noise makes near-ties."""
    draw = np.random.default_rng([seed, 77])
    share = np.sort(draw.uniform(0.02, 1, (slots, ops)), axis=1)
    share[:, -1] = 1
    costs = draw.uniform(0.3, 1, (slots, 1)) * share
    scores = 0.1 * (1 - share) ** 2 + np.abs(draw.normal(0, noise, (slots, ops)))
    scores[:, -1] = 0
    tables = {"ms": costs, "flops": costs * draw.uniform(0.8, 1.2, costs.shape)}
    return build(
        scores.tolist(),
        costs={name: tables[name].tolist() for name in list(tables)[:limits]},
        limits={name: 0.5 * tables[name][:, -1].sum() for name in list(tables)[:limits]},
        plan_count=plans,
        max_overlap=int(0.7 * slots),
        **fields,
    )


@pytest.mark.parametrize("limits", [1, 2])
@pytest.mark.parametrize("noise", [0.002, 0.03])
def test_sequence_is_that_of_scip(build, monkeypatch, limits, noise):
    branched = []
    monkeypatch.setattr(
        tree.Tree, "_search", spied(tree.Tree._search, lambda self, *_: branched.append(self.found))
    )
    forbidden = (((0, 3), (1, 4)), ((2, 5), (3, 6), (4, 7)))
    problem = instance(build, 8, 12, 1, noise, 5, limits, forbidden=forbidden)
    answer = solve(problem, time_limit_s=600)
    assert all(not found or len(found) == 5 for found in branched)  # at most for the first plan
    reference = solve(problem, time_limit_s=600, method="scip")
    assert answer.status is reference.status is SelectionStatus.OPTIMAL
    assert [plan.score for plan in answer.plans] == pytest.approx(
        [plan.score for plan in reference.plans], rel=1e-6
    )
    for number, plan in enumerate(answer.plans):
        verify_plan(problem, plan, answer.plans[:number])


def spied(method, look):
    def spy(*given):
        look(*given)
        return method(*given)

    return spy


def test_a_hundred_plans_of_the_papers_size(build):
    """23 slots of 197 ops: minutes with one call of a solver per plan."""
    problem = instance(build, 23, 197, 2, 0.002, 100)
    answer = solve(problem, time_limit_s=600)
    assert answer.status is SelectionStatus.OPTIMAL
    scores = [plan.score for plan in answer.plans]
    assert len(scores) == 100
    assert scores == sorted(scores)
    for number, plan in enumerate(answer.plans):
        verify_plan(problem, plan, answer.plans[:number])


@pytest.mark.parametrize("limit", [0.0, 300.0, 3000.0])
def test_the_tree_goes_on_with_the_same_plans(build, monkeypatch, limit):
    problem = instance(build, 10, 20, 3, 0.01, 12)
    whole = solve(problem, time_limit_s=600)
    monkeypatch.setattr(rising, "_LEAST_LIMIT", limit)
    monkeypatch.setattr(rising, "_MOST_LIMIT", limit)
    monkeypatch.setattr(rising, "_LIMIT_GROWTH", 1.0)
    risen = []
    monkeypatch.setattr(tree, "rise", spied_result(tree.rise, risen))
    assert solve(problem, time_limit_s=600).plans == whole.plans
    assert len(risen) == 1
    assert whole.status is SelectionStatus.OPTIMAL


def spied_result(function, results):
    def spy(*given):
        results.append(function(*given))
        return results[-1]

    return spy


def test_fewer_plans_than_asked_for(build):
    problem = build([[0.0, 1.0, 2.0]] * 3, plan_count=50, max_overlap=0)
    answer = solve(problem, time_limit_s=600)
    assert answer.status is SelectionStatus.FEWER_PLANS
    assert [plan.score for plan in answer.plans] == [0.0, 3.0, 6.0]
