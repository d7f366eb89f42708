"""What a guard against the winner's curse buys: plans selected under predicted costs, and their truth.

A network's table is predicted with constants fitted on one half of the families; the truth is the table
of constants fitted on the other half, with an error of its own for each distinct op; four splits, both
ways each. Selection minimises
random scores that grow with what an op saves. Three ways are compared at the same budget: plain
selection; the best of K plans that meets the budget in most perturbed tables; and a budget tightened by
what the perturbed tables say, solved again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from fit_latency import WAYS, kept
from latency_data import KernelStore, read_rows
from latency_fit import START, Library, fit_constants, fit_members
from predicted_programs import traced

from lanac.ir import TEACHER, OpSpec
from lanac.passes.op_outlines import OpOutlines
from lanac.targets import parse_target
from lanac.targets.predicted import (
    Judged,
    PerturbedTables,
    PredictedTable,
    judge_plans,
    predict_table,
    safety_factor,
    way_of,
)
from lanac.targets.predicted.ways import as_members

Array = npt.NDArray[np.float64]
TARGET = "rtx3090:pytorch:fp16:b256"
OWN = 0.1
"""Error that each distinct op has in truth besides: single kernels are predicted worse than networks."""

PROBABILITY = 0.8
SPLITS = 4
"""Ways of halving the families: either half predicts, the other is the truth."""


@dataclass
class Problem:
    """Slots as arrays: ops by number.

    Attributes:
        names: of the slots.
        ops: by slot.
        costs: relative to the teacher, by slot.
        scores: by slot.
        constant: relative to the teacher.
    """

    names: list[str]
    ops: list[list[OpSpec]]
    costs: list[Array]
    scores: list[Array]
    constant: float

    def solve(self, budget: float, count: int = 1) -> list[list[int]]:
        """The best plans within a relative budget: Lagrange, then greedy repairs; distinct ones."""
        low, high = 0.0, 1e6
        found: dict[tuple[int, ...], float] = {}
        for _ in range(60):
            price = np.sqrt(max(low, 1e-6) * high)
            plan = [
                int(np.argmin(s + price * c)) for s, c in zip(self.scores, self.costs, strict=True)
            ]
            if self.cost(plan) > budget:
                low = price
                continue
            high = price
            found[tuple(self._improved(plan, budget))] = 0.0
        best = sorted(found, key=self.score)
        near = [
            tuple(self._improved(list(varied), budget))
            for plan in best[:2]
            for varied in self._varied(plan, budget, count)
        ]
        plans = sorted(dict.fromkeys([*best, *near]), key=self.score)
        return [list(plan) for plan in plans[:count]]

    def cost(self, plan: Sequence[int]) -> float:
        return self.constant + float(sum(c[i] for c, i in zip(self.costs, plan, strict=True)))

    def score(self, plan: Sequence[int]) -> float:
        return float(sum(s[i] for s, i in zip(self.scores, plan, strict=True)))

    def named(self, plan: Sequence[int]) -> dict[str, OpSpec]:
        return {name: ops[i] for name, ops, i in zip(self.names, self.ops, plan, strict=True)}

    def _improved(self, plan: list[int], budget: float) -> list[int]:
        """Single changes that lower the score within the budget, the best first, until none does."""
        left = budget - self.cost(plan)
        while True:
            best, gain = None, 1e-12
            for slot, (costs, scores) in enumerate(zip(self.costs, self.scores, strict=True)):
                fits = costs - costs[plan[slot]] <= left
                gains = np.where(fits, scores[plan[slot]] - scores, -np.inf)
                if gains.max() > gain:
                    best, gain = (slot, int(np.argmax(gains))), float(gains.max())
            if best is None:
                return plan
            left -= float(self.costs[best[0]][best[1]] - self.costs[best[0]][plan[best[0]]])
            plan[best[0]] = best[1]

    def _varied(self, plan: Sequence[int], budget: float, count: int) -> Iterator[list[int]]:
        """Plans that differ in one or two slots and meet the budget."""
        rng = np.random.default_rng(0)
        for _ in range(4 * count):
            varied = list(plan)
            for slot in rng.choice(len(plan), size=2, replace=False):
                cheap = np.flatnonzero(self.costs[slot] <= self.costs[slot][plan[slot]])
                order = cheap[np.argsort(self.scores[slot][cheap])][:4]
                varied[slot] = int(rng.choice(order))
            if self.cost(varied) <= budget:
                yield varied


def compare(fit: Path, kernels: Path, rounds: int, seeds: int = 40) -> Iterator[str]:
    """Lines of a table: violations, excess and score of each way of selecting."""
    rows = read_rows(fit)
    library = Library(KernelStore(kernels))
    way = WAYS[0]
    chosen = kept(rows, way)
    families = sorted({row.family for row in chosen})
    target = parse_target(TARGET)
    program, ops = traced("efficientnet_b2", "paper", 260)
    outlines = OpOutlines(program)

    def table(half: Collection[str]) -> PredictedTable:
        samples = library.samples([row for row in chosen if row.family in half], way.rule)
        constants = fit_constants(samples, START, way.freedom, way.fixed, rounds)
        members = fit_members(
            library, samples.rows, way.rule, START, way.freedom, way.fixed, (rounds + 1) // 2
        )
        changed = replace(way_of(target), constants=constants, members=as_members(members))
        return predict_table(program, ops, outlines.get, target, key_of=outlines.key, way=changed)

    pairs: list[tuple[PredictedTable, PredictedTable]] = []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(families)
        half = len(order) // 2
        one, other = table(set(order[:half])), table(set(order[half:]))
        pairs += [(one, other), (other, one)]
    errors = way_of(target).errors
    yield "| budget | selection | over budget | by, where over (mean) | latency in truth | score to plain |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for budget in (0.7, 0.5, 0.35):
        results: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds):
            believed, true = pairs[seed % len(pairs)]
            for name, ratio, lost in _one(believed, true, errors, budget, seed):
                results.setdefault(name, []).append((ratio, lost))
        for name, found in results.items():
            ratios, losses = (np.array(column) for column in zip(*found, strict=True))
            over = ratios > budget * 1.0001
            excess = float(np.mean(ratios[over] / budget - 1)) if over.any() else 0.0
            yield (
                f"| {budget}x | {name} | {100 * over.mean():.0f} % | {100 * excess:.1f} % | "
                f"{ratios.mean():.3f}x | {losses.mean():.2f} |"
            )


def _one(
    believed: PredictedTable,
    true: PredictedTable,
    errors: Mapping[str, float],
    budget: float,
    seed: int,
) -> Iterator[tuple[str, float, float]]:
    """Name of the way, true ratio of its plan, and its score relative to plain selection."""
    rng = np.random.default_rng(seed)
    problem = _problem(believed, rng)
    truth = _truth(problem, true, seed)
    drawn = PerturbedTables(believed, errors, 200, seed)
    plain = problem.solve(budget)[0]
    reference = problem.score(plain)
    plans = [*problem.solve(budget, 30), *problem.solve(0.97 * budget, 30)]
    plans += problem.solve(0.94 * budget, 30)
    judged = judge_plans([problem.named(plan) for plan in plans], drawn, ratio=budget)
    scores = [problem.score(plan) for plan in plans]
    safest = plans[safest_good_plan(judged, scores, PROBABILITY).place]
    tightened = _tightened(problem, drawn, budget)
    for name, plan in (("plain", plain), ("best safe one of K", safest), ("tightened", tightened)):
        yield name, truth.cost(plan), problem.score(plan) / reference


def _tightened(problem: Problem, drawn: PerturbedTables, budget: float) -> list[int]:
    """As `GuardBudget` does it, with this file's solver."""
    factor, plan = 1.0, problem.solve(budget)[0]
    for _ in range(3):
        (judged,) = judge_plans([problem.named(plan)], drawn, ratio=budget)
        if judged.probability >= PROBABILITY:
            break
        factor = min(safety_factor(problem.named(plan), drawn, PROBABILITY), 0.99 * factor)
        plan = problem.solve(budget * factor)[0]
    return plan


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


def _problem(table: PredictedTable, rng: np.random.Generator) -> Problem:
    names = [*table.costs]
    ops = [[*table.costs[name]] for name in names]
    whole = table.teacher.latency_ms
    costs = [
        np.array([table.costs[name][op].latency_ms for op in own]) / whole
        for name, own in zip(names, ops, strict=True)
    ]
    scores = []
    for own, cost in zip(ops, costs, strict=True):
        kept_cost = cost[own.index(TEACHER)]
        saved = np.maximum(1 - cost / max(kept_cost, 1e-9), 0.02)
        score = rng.lognormal(0, 0.5) * saved**1.5 * rng.lognormal(0, 0.6, len(own))
        score[own.index(TEACHER)] = 0.0
        scores.append(score)
    return Problem(names, ops, costs, scores, table.constant.latency_ms / whole)


def _truth(problem: Problem, table: PredictedTable, seed: int) -> Problem:
    """The same problem with the costs of another table and errors of single ops."""
    drawn = PerturbedTables(table, {"own": OWN}, 1, 10_000 + seed)
    whole = float(drawn.teacher[0])
    costs = [
        np.array([float(drawn.cost(name, op)[0]) for op in own]) / whole
        for name, own in zip(problem.names, problem.ops, strict=True)
    ]
    return replace(problem, costs=costs, constant=float(drawn.constant[0]) / whole)
