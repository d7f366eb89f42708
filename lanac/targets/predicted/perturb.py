"""A guard against the winner's curse: plans are judged under many tables that might as well be true.

Selection takes the plan whose predicted cost is lowest, and so the one whose errors are in its favour.
Errors of predictions are not independent: kernels of one class are wrong together, because they share
constants. So tables are drawn in which each class is off by a factor of its own and each distinct op by
another, with the errors that the fit was seen to make on networks it did not know.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lanac.ir import TEACHER, OpSpec
from lanac.targets.predicted.prediction import PartCost
from lanac.targets.predicted.table import PredictedTable

Array = npt.NDArray[np.float64]
OWN = "own"
"""Name of the error that an op has for itself, among the errors of classes."""


@dataclass(frozen=True)
class PerturbedTables:
    """Cost tables that are consistent in themselves and differ by the model's errors.

    Attributes:
        costs: slot name -> op -> milliseconds in each table.
        constant: milliseconds outside the slots in each table.
        teacher: of the whole teacher in each table.
    """

    costs: Mapping[str, Mapping[OpSpec, Array]]
    constant: Array
    teacher: Array

    def totals(self, plan: Mapping[str, OpSpec]) -> Array:
        """What a plan (slot name -> op) costs in each table."""
        return self.constant + sum(
            (self.costs[name][op] for name, op in plan.items()), np.zeros_like(self.constant)
        )

    def ratios(self, plan: Mapping[str, OpSpec]) -> Array:
        """The same relative to the teacher: what is wrong about all kernels alike cancels."""
        ratios: Array = self.totals(plan) / self.teacher
        return ratios


def perturbed_tables(
    table: PredictedTable, errors: Mapping[str, float], count: int = 200, seed: int = 0
) -> PerturbedTables:
    """Draws tables around a predicted one.

    Args:
        table: with costs by kernel class.
        errors: standard deviations of the logarithm by class, and `own` (`Way.errors`).
        count: how many.
        seed: the same tables for the same seed, whatever else is in the pool.
    """
    kinds = sorted({kind for part in _parts(table) for kind in part.by_class})
    factors = {
        kind: np.exp(errors.get(kind, 0.0) * _normal(f"class {kind}", count, seed))
        for kind in kinds
    }

    def drawn(part: PartCost, what: str) -> Array:
        total = np.zeros(count)
        for kind, ms in part.by_class.items():
            total += ms * factors[kind]
        # Equal kernels are wrong alike, wherever they stand.
        key = f"{what} {[f'{kind}={ms:.6g}' for kind, ms in sorted(part.by_class.items())]}"
        return total * np.exp(errors.get(OWN, 0.0) * _normal(key, count, seed))

    costs = {
        name: {op: drawn(cost, str(op)) for op, cost in ops.items()}
        for name, ops in table.costs.items()
    }
    constant = drawn(table.constant, "outside")
    own = sum((ops[TEACHER] for ops in costs.values()), np.zeros(count))
    return PerturbedTables(costs, constant, constant + own)


@dataclass(frozen=True)
class Judged:
    """A plan under perturbed tables.

    Attributes:
        place: in the sequence that was given.
        probability: share of the tables in which it meets the budget.
        ratio: its cost relative to the teacher, median over the tables.
        high_ratio: exceeded in one of ten tables.
    """

    place: int
    probability: float
    ratio: float
    high_ratio: float


def judge_plans(
    plans: Sequence[Mapping[str, OpSpec]],
    tables: PerturbedTables,
    *,
    ratio: float | None = None,
    limit_ms: float | None = None,
) -> list[Judged]:
    """How safely each plan meets a budget.

    Args:
        plans: slot name -> op.
        tables: from `perturbed_tables`.
        ratio: the budget relative to the teacher, or
        limit_ms: the budget in milliseconds; one of the two.
    """
    if (ratio is None) == (limit_ms is None):
        raise ValueError("give either ratio or limit_ms")
    # One of the two is infinite, and met by everything.
    most, limit = ratio or math.inf, limit_ms or math.inf
    judged = []
    for place, plan in enumerate(plans):
        ratios = tables.ratios(plan)
        met = (ratios <= most) & (tables.totals(plan) <= limit)
        high = float(np.quantile(ratios, 0.9))
        judged.append(Judged(place, float(np.mean(met)), float(np.median(ratios)), high))
    return judged


def safest_good_plan(
    judged: Sequence[Judged], scores: Sequence[float], probability: float = 0.8
) -> Judged:
    """The plan with the lowest score among those that meet the budget safely enough.

    Where none does, the one that is most likely to.

    Args:
        judged: from `judge_plans`.
        scores: of the plans, in the same order; lower is better.
        probability: with which the budget has to be met.
    """
    safe = [plan for plan in judged if plan.probability >= probability]
    if safe:
        return min(safe, key=lambda plan: (scores[plan.place], -plan.probability))
    return max(judged, key=lambda plan: (plan.probability, -scores[plan.place]))


def safety_factor(
    plan: Mapping[str, OpSpec], tables: PerturbedTables, probability: float = 0.8
) -> float:
    """What a relative budget has to be multiplied with so that a plan like this one meets it.

    A budget tightened by it and solved again gives plans that are safe to that probability.
    """
    ratios = tables.ratios(plan)
    return float(np.median(ratios) / np.quantile(ratios, probability))


def _parts(table: PredictedTable) -> list[PartCost]:
    return [table.constant, *(cost for ops in table.costs.values() for cost in ops.values())]


def _normal(key: str, count: int, seed: int) -> Array:
    """Standard normal numbers that follow from the key and the seed alone."""
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
    numbers: Array = generator.standard_normal(count)
    return numbers
