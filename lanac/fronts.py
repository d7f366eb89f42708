"""pareto(): what each of several budgets would cost in loss, before any student is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from typing_extensions import Unpack

from lanac import solver
from lanac.beginning import Given
from lanac.compilation import Compilation
from lanac.compiler import prepare
from lanac.errors import CommandError, InfeasibleBudgetError, unknown_name
from lanac.ir import Plan
from lanac.ops.base import Family
from lanac.passes.select_plans import selection_problem, to_plan
from lanac.settings import Settings
from lanac.solver import SelectionStatus
from lanac.targets import LATENCY, MEMORY, TITLES

_ALL = "0.999x"
"""A budget that everything meets: it says what has to be measured."""


@dataclass(frozen=True)
class FrontPoint:
    """The best plan at one budget.

    Attributes:
        limit: the budget, in the resource's unit.
        ratio: the same as a share of the teacher's cost.
        plan: with predicted score and costs; None where the time ran out.
        price: predicted loss that one more percent of the teacher's cost saves, on average up to the
            next larger budget; None at the largest.
    """

    limit: float
    ratio: float
    plan: Plan | None
    price: float | None


@dataclass(frozen=True)
class Front:
    """The best plans at several budgets.

    Attributes:
        prepared: what they were selected from.
        resource: what the budgets limit.
        points: one for each budget, the smallest first.
    """

    prepared: Compilation
    resource: str
    points: tuple[FrontPoint, ...]


def pareto(
    model: nn.Module,
    *,
    resource: str = "latency",
    points: int = 20,
    target: str = "cpu",
    pool: str = "default",
    settings: Settings | None = None,
    threads: int | None = None,
    ops: Sequence[Family | type[Family]] = (),
    out: str | Path = "lanac-out",
    **given: Unpack[Given],
) -> Front:
    """Prepares a teacher as `compile` does, and selects the best plan at each of several budgets.

    What it prepares is kept: a compilation into the same folder goes on from there. Figures are
    predicted: sums of scores, and of costs that were measured or counted for each op alone.

    Args:
        model: the trained teacher.
        resource: what the budgets limit: latency, params or flops.
        points: how many budgets, from the smallest that can be reached to the teacher's own cost.
        target: as for `compile`.
        pool: pool names, families and ops, separated by commas.
        ops: your own op families, as for `compile`.
        settings: how much work goes into the preparation.
        threads: as for `compile`.
        out: folder of the students; the workspace is below it.
        given: the further arguments of `begin`: `train_data`, which has to be there, and so on.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    settings = settings or Settings()
    named = {title: name for name, title in TITLES.items() if name != MEMORY}
    if resource not in named:
        raise CommandError(f"--resource {resource!r}: {unknown_name('resource', resource, named)}")
    if points < 2:
        raise CommandError(f"--points {points}: expected at least 2")
    with prepare(
        model,
        budget=f"{resource}={_ALL}",
        target=target,
        out=out,
        pool=pool,
        ops=ops,
        settings=settings,
        threads=threads,
        **given,
    ) as prepared:
        return front(prepared, named[resource], points)


def front(prepared: Compilation, resource: str = LATENCY, points: int = 20) -> Front:
    """The best plans of what was prepared at evenly spaced budgets.

    Raises:
        InfeasibleBudgetError: other limits leave no plan at all.
    """
    problem = selection_problem(prepared, 1, 1.0)
    table, teacher = problem.costs[resource], prepared.need("costs").teacher[resource]
    smallest = problem.constants.get(resource, 0.0) + sum(
        row[problem.fixed[slot]] if slot in problem.fixed else min(row)
        for slot, row in enumerate(table)
    )
    largest = max(teacher, smallest)
    limits = np.linspace(smallest * (1 + 1e-9), largest, points)
    found = solver.pareto(problem, resource, limits.tolist(), seed=prepared.seed)
    if all(point.status is SelectionStatus.INFEASIBLE for point in found):
        raise InfeasibleBudgetError(
            "no plan exists at any budget: what is fixed or kept, or the other limits, exclude all"
        )
    return Front(
        prepared,
        resource,
        tuple(
            FrontPoint(
                point.limit,
                point.limit / teacher,
                to_plan(prepared, point.plan) if point.plan is not None else None,
                point.price * teacher / 100 if point.price is not None else None,
            )
            for point in found
        ),
    )
