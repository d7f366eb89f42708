"""Small selection problems whose best plan is known, and a judge that knows their losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lanac.search import Choices, Space, cheapest_problem
from lanac.solver import SelectionProblem, solve

Make = Callable[..., SelectionProblem]


class ScoreJudge:
    """The loss of a plan is a constant and the sum of its scores."""

    def __init__(self, problem: SelectionProblem) -> None:
        self.problem = problem
        self.plans: list[Choices] = []
        self.steps: list[int] = []

    def losses(self, plans: Sequence[Choices]) -> list[float]:
        self.plans += plans
        return [self.loss(plan) for plan in plans]

    def loss(self, plan: Choices) -> float:
        return 0.2 + sum(row[op] for row, op in zip(self.problem.scores, plan, strict=True))

    def mixture(self, shares: Sequence[Tensor], step: int) -> tuple[float, list[Tensor]]:
        self.steps.append(step)
        scores = [torch.tensor(row) for row in self.problem.scores]
        terms = [float(share @ row) for share, row in zip(shares, scores, strict=True)]
        return 0.2 + sum(terms), scores


@pytest.fixture(scope="session")
def make() -> Make:
    """A problem of some slots and ops, whose first op costs 1 and changes nothing.

    `share` is where its limits lie between the least that can be reached (0) and no limit (1).
    """

    def problem(
        slots: int, ops: int, seed: int, share: float = 0.5, resources: int = 1
    ) -> SelectionProblem:
        rng = np.random.default_rng(seed)
        scores = [(0.0, *rng.exponential(0.05, ops - 1).tolist()) for _ in range(slots)]
        names = [f"cost{i}" for i in range(resources)]
        costs = {
            name: tuple((1.0, *rng.uniform(0.05, 1, ops - 1).tolist()) for _ in range(slots))
            for name in names
        }
        least = {name: sum(map(min, table)) for name, table in costs.items()}
        return SelectionProblem(
            slots=tuple(f"slot{i}" for i in range(slots)),
            ops=tuple(tuple(f"op{j}" for j in range(ops)) for _ in range(slots)),
            scores=tuple(scores),
            costs=costs,
            constants=dict.fromkeys(names, 0.5),
            limits={name: 0.5 + low + share * (slots - low) for name, low in least.items()},
        )

    return problem


@pytest.fixture(scope="session")
def judge_of() -> Callable[[SelectionProblem], ScoreJudge]:
    return ScoreJudge


@pytest.fixture(scope="session")
def space_of() -> Callable[[SelectionProblem], Space]:
    """The space of a problem, from its cheapest plan."""

    def space(problem: SelectionProblem) -> Space:
        return Space(problem, solve(cheapest_problem(problem)).plans[0].choices)

    return space


@pytest.fixture(scope="session")
def every_plan() -> Callable[[Space], list[Choices]]:
    """All plans that keep the limits, by trying each."""

    def plans(space: Space) -> list[Choices]:
        pools = [range(len(pool)) for pool in space.problem.ops]
        return [plan for plan in itertools.product(*pools) if space.allows(plan)]

    return plans
