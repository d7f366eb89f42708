"""The front: each point is what `solve` gives at that limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lanac.errors import SelectionError
from lanac.solver import SelectionStatus, pareto, solve


def test_each_point_is_optimal_and_prices_are_slopes(build):
    draw = np.random.default_rng(0)
    costs = np.sort(draw.uniform(0, 1, (6, 5)), axis=1)
    scores = -costs + draw.uniform(0, 0.2, (6, 5))
    problem = build(scores.tolist(), costs={"ms": costs.tolist()}, limits={"ms": 9.0})
    limits = [0.01, *np.linspace(0.5, 6.0, 12), 2.0, 2.0]
    front = pareto(problem, "ms", limits)
    assert [point.limit for point in front] == sorted(set(limits))
    for point, larger in zip(front, [*front[1:], None], strict=True):
        alone = solve(replace(problem, limits={"ms": point.limit}))
        assert point.status is alone.status
        if point.plan is None:
            assert point.status is SelectionStatus.INFEASIBLE
            continue
        assert point.plan.score == pytest.approx(alone.plans[0].score, abs=1e-9)
        assert point.plan.costs["ms"] <= point.limit
        if larger is not None:
            slope = (point.plan.score - larger.plan.score) / (larger.limit - point.limit)
            assert point.price == pytest.approx(slope)
            assert point.price >= 0


def test_unknown_resource(build):
    with pytest.raises(SelectionError) as caught:
        pareto(build([[0.0]], costs={"ms": [[1.0]]}), "msec", [1.0])
    assert str(caught.value) == (
        "selection, pareto: unknown resource 'msec'. Did you mean 'ms'? Known: ms. "
        "Give a resource with costs."
    )
