"""Table 6 of the paper for the user's own model: what a larger pool is worth."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from lanac.comparison.finetuned import EqualFinetuning
from lanac.compilation import Compilation, Finalist
from lanac.errors import InfeasibleBudgetError
from lanac.ir import IDENTITY, TEACHER, OpSpec
from lanac.passes import EvaluatePlans, SelectPlans, run_passes
from lanac.settings import ComparisonSettings, Settings

Pool = Mapping[str, tuple[OpSpec, ...]]


@dataclass(frozen=True)
class PoolRow:
    """Pools of one size.

    Attributes:
        size: most ops per slot; None for all.
        ops: ops of a pool on average, over all slots.
        magnitude: power of ten of the number of plans, on average.
        finalists: the chosen plan of each pool that meets the budget.
        metrics: each one's metric on the validation data, after equal finetuning.
        infeasible: how many pools do not meet it.
    """

    size: int | None
    ops: float
    magnitude: float
    finalists: tuple[Finalist, ...]
    metrics: tuple[float, ...]
    infeasible: int

    def losses(self) -> list[float]:
        """Before finetuning."""
        return [item.loss for item in self.finalists]


@dataclass(frozen=True)
class PoolTable:
    """Pools of several sizes at equal budget and equal finetuning.

    Attributes:
        prepared: with the whole pool.
        rows: the smallest first.
        finetuning: how every plan was finetuned.
        teacher_metric: the teacher's, on the validation data.
    """

    prepared: Compilation
    rows: tuple[PoolRow, ...]
    finetuning: EqualFinetuning
    teacher_metric: float


def compare_pools(
    prepared: Compilation, settings: Settings, comparison: ComparisonSettings
) -> PoolTable:
    """Selects from pools of several sizes and finetunes what is chosen, all alike.

    As in the paper, every pool has the teacher's op and, where a slot has it, identity; the rest is
    drawn at random from the ops that pruning has left. A pool of two is these two: a slot that
    cannot be skipped keeps the teacher's op.
    """
    finetuning = EqualFinetuning.of(settings, comparison)
    whole: Pool = prepared.need("pool")
    rows = []
    for size in (*sorted(comparison.pool_sizes), None):
        repeats = comparison.repeats if size is not None and size > 2 else 1
        drawn = [
            draw_pool(prepared, size, prepared.seed + number) if size is not None else whole
            for number in range(repeats)
        ]
        rows.append(_row(prepared, size, drawn, finetuning, settings))
    return PoolTable(prepared, tuple(rows), finetuning, finetuning.teacher_metric(prepared))


def draw_pool(prepared: Compilation, size: int, seed: int) -> Pool:
    """At most `size` ops per slot: the teacher's, identity, what the user has fixed, others."""
    rng = random.Random(seed)
    fixed = prepared.restrictions.fixed
    drawn = {}
    for name, ops in prepared.need("pool").items():
        always = {TEACHER, IDENTITY, fixed.get(name, TEACHER)}
        others = [op for op in ops if op not in always]
        room = max(0, size - sum(op in always for op in ops)) if size > 2 else 0
        chosen = always | set(rng.sample(others, min(room, len(others))))
        drawn[name] = tuple(op for op in ops if op in chosen)
    return drawn


def _row(
    prepared: Compilation,
    size: int | None,
    pools: list[Pool],
    finetuning: EqualFinetuning,
    settings: Settings,
) -> PoolRow:
    finalists, metrics, infeasible = [], [], 0
    for number, pool in enumerate(pools):
        prepared.instruments.say(
            f"pool {number + 1} of {len(pools)} with "
            f"{'all ops' if size is None else f'at most {size} ops'} per slot"
        )
        try:
            chosen = run_passes(
                prepared.having(pool=pool),
                [
                    SelectPlans(settings.plans),
                    EvaluatePlans(settings.evaluate_images, finalists=1),
                ],
            ).need("finalists")[0]
        except InfeasibleBudgetError as error:
            prepared.instruments.say(str(error))
            infeasible += 1
            continue
        finalists.append(chosen)
        metrics.append(finetuning.metric(prepared, chosen))
    return PoolRow(
        size,
        statistics.mean(sum(map(len, pool.values())) for pool in pools),
        statistics.mean(sum(math.log10(len(ops)) for ops in pool.values()) for pool in pools),
        tuple(finalists),
        tuple(metrics),
        infeasible,
    )
