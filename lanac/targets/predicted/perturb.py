"""A guard against the winner's curse: plans are judged under many tables that might as well be true.

Selection takes the plan whose predicted cost is lowest, and so the one whose errors are in its favour.
Errors of predictions are not independent: kernels of one class and of alike shapes are wrong together,
because they share constants. So tables are drawn with constants that might as well be true (fitted on
halves of the families), in which besides each class and each distinct op is off by a factor of its own.
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


class PerturbedTables:
    """Cost tables that are consistent in themselves and differ by the model's errors.

    Drawn as they are asked for: of a large pool, plans need little.

    Args:
        table: with costs by kernel class and by other fits.
        errors: standard deviations of the logarithm by class, and `own` (`Way.errors`).
        count: how many tables.
        seed: the same tables for the same seed, whatever else is in the pool.

    Attributes:
        constant: milliseconds outside the slots in each table.
        teacher: of the whole teacher in each table.
    """

    def __init__(
        self, table: PredictedTable, errors: Mapping[str, float], count: int = 200, seed: int = 0
    ) -> None:
        self._table, self._errors, self._count, self._seed = table, errors, count, seed
        self._normals: dict[str, Array] = {}
        self._drawn: dict[tuple[str, OpSpec], Array] = {}
        self.constant = self._draw(table.constant, "outside")
        own = sum((self.cost(name, TEACHER) for name in table.costs), np.zeros(count))
        self.teacher: Array = self.constant + own

    def cost(self, slot: str, op: OpSpec) -> Array:
        """Milliseconds of an op in each table."""
        if (slot, op) not in self._drawn:
            self._drawn[slot, op] = self._draw(self._table.costs[slot][op], str(op))
        return self._drawn[slot, op]

    def predicted(self, plan: Mapping[str, OpSpec]) -> float:
        """What a plan (slot name -> op) is predicted to cost relative to the teacher."""
        whole = dict.fromkeys(self._table.costs, TEACHER)
        return self._predicted_ms(plan) / self._predicted_ms(whole)

    def _predicted_ms(self, plan: Mapping[str, OpSpec]) -> float:
        costs = self._table.costs
        return self._table.constant.latency_ms + sum(
            costs[name][op].latency_ms for name, op in plan.items()
        )

    def totals(self, plan: Mapping[str, OpSpec]) -> Array:
        """What a plan (slot name -> op) costs in each table."""
        return self.constant + sum(
            (self.cost(name, op) for name, op in plan.items()), np.zeros(self._count)
        )

    def ratios(self, plan: Mapping[str, OpSpec]) -> Array:
        """The same relative to the teacher: what is wrong about all kernels alike cancels."""
        ratios: Array = self.totals(plan) / self.teacher
        return ratios

    def _draw(self, part: PartCost, what: str) -> Array:
        total = np.zeros(self._count)
        for kind, ms in part.by_class.items():
            total += ms * self._factor(kind, f"class {kind}")
        if part.latency_ms:
            total *= np.resize(part.by_member, self._count) / part.latency_ms
        # Equal kernels are wrong alike, wherever they stand.
        kernels = [f"{kind}={ms:.6g}" for kind, ms in sorted(part.by_class.items())]
        return total * self._factor(OWN, f"{what} {kernels}")

    def _factor(self, kind: str, key: str) -> Array:
        """Factors that follow from the key and the seed alone, as far from one as the error of `kind`."""
        if key not in self._normals:
            generator = np.random.default_rng([self._seed, zlib.crc32(key.encode())])
            self._normals[key] = generator.standard_normal(self._count)
        factors: Array = np.exp(self._errors.get(kind, 0.0) * self._normals[key])
        return factors


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
        tables: as `PerturbedTables` draws them.
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


def safety_factor(
    plan: Mapping[str, OpSpec], tables: PerturbedTables, probability: float = 0.8
) -> float:
    """What a relative budget has to be multiplied with so that a plan like this one meets it.

    A budget tightened by it and solved again gives plans that are safe to that probability. What was
    chosen because the prediction is in its favour costs more in most of the tables: that counts too.
    """
    return float(tables.predicted(plan) / np.quantile(tables.ratios(plan), probability))
