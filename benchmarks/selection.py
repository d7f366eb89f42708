"""Selection: CPU time of lanac's solver against PuLP with CBC, as the paper solved Eq. 4.

    pip install pulp
    python benchmarks/selection.py first --instances realistic near_tie --seeds 100 101
    python benchmarks/selection.py plans --slots 23 --count 100 --cbc-seconds 120
    python benchmarks/selection.py plans --slots 46 --count 100 --gap 0.02 --cbc-seconds 120
    python benchmarks/selection.py pareto

CBC solves afresh for each plan, with the overlap of every earlier one as a row. It is stopped after
`--cbc-seconds` of its own CPU time; both are then compared at the plans that it had reached. What
counts for CBC is the time of the solver's process; PuLP's own time is shown apart. One thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from lanac.solver import SelectionProblem, pareto, solve  # noqa: E402

Floats = NDArray[np.float64]
Instance = tuple[Floats, Floats]


def realistic(slots: int, ops: int, seed: int) -> Instance:
    """Slots of different size and sensitivity; the last op is the teacher's own, of score 0."""
    draw = np.random.default_rng([1, seed])
    base = draw.uniform(0.1, 1, (slots, 1))
    share = _shares(draw, slots, ops)
    sensitivity = 0.1 * np.exp(draw.normal(0, 1, (slots, 1)))
    scores = sensitivity * (1 - share) ** 2 * np.exp(draw.normal(0, 0.5, (slots, ops)))
    return scores, base * share


def near_tie(slots: int, ops: int, seed: int) -> Instance:
    """All ops close to one curve: very many plans of nearly the same score."""
    draw = np.random.default_rng([2, seed])
    base = draw.uniform(0.5, 1, (slots, 1))
    share = _shares(draw, slots, ops)
    scores = 0.1 * (1 - share) ** 2 + np.abs(draw.normal(0, 0.002, (slots, ops)))
    scores[:, -1] = 0
    return scores, base * share


def correlated(slots: int, ops: int, seed: int) -> Instance:
    """The score is what is saved, up to a little noise: the classic hard knapsack."""
    draw = np.random.default_rng([3, seed])
    costs = draw.uniform(0.5, 1, (slots, 1)) * _shares(draw, slots, ops)
    scores = costs[:, -1:] - costs + draw.uniform(0, 0.02, (slots, ops))
    scores[:, -1] = 0
    return scores, costs


def degenerate(slots: int, ops: int, seed: int) -> Instance:
    """Few different whole numbers: ties everywhere."""
    draw = np.random.default_rng([4, seed])
    scores = draw.integers(1, 8, (slots, ops)).astype(float)
    costs = draw.integers(1, 6, (slots, ops)).astype(float)
    scores[:, -1], costs[:, -1] = 0, 8
    return scores, costs


def huge_range(slots: int, ops: int, seed: int) -> Instance:
    """Scores over nine and costs over six powers of ten."""
    draw = np.random.default_rng([5, seed])
    costs = 10 ** draw.uniform(3, 9, (slots, 1)) * _shares(draw, slots, ops)
    scores = 10 ** draw.uniform(-7, 2, (slots, ops))
    scores[:, -1] = 0
    return scores, costs


def _shares(draw: np.random.Generator, slots: int, ops: int) -> Floats:
    share = np.sort(draw.uniform(0.02, 1, (slots, ops)), axis=1)
    share[:, -1] = 1
    return share


INSTANCES: dict[str, Callable[[int, int, int], Instance]] = {
    item.__name__: item for item in (realistic, near_tie, correlated, degenerate, huge_range)
}


def problem_of(instance: Instance, count: int, budget: float = 0.5) -> SelectionProblem:
    """`count` plans at a budget relative to the teacher, sharing at most 70 % of the choices."""
    scores, costs = instance
    slots, ops = scores.shape
    return SelectionProblem(
        slots=tuple(f"slot{i}" for i in range(slots)),
        ops=tuple(tuple(f"op{j}" for j in range(ops)) for _ in range(slots)),
        scores=scores.tolist(),
        costs={"ms": costs.tolist()},
        constants={},
        limits={"ms": budget * float(costs[:, -1].sum())},
        plan_count=count,
        max_overlap=int(0.7 * slots),
    )


def cbc_plans(problem: SelectionProblem, gap: float, seconds: float) -> list[dict[str, float]]:
    """CPU seconds of CBC and of PuLP, and the score, after each plan that was solved in time."""
    import pulp

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    plans: list[list[int]] = []
    rows: list[dict[str, float]] = []
    cbc, python = used(), time.process_time()
    while len(plans) < problem.plan_count and (left := seconds - (used() - cbc)) > 0:
        model = pulp.LpProblem("selection", pulp.LpMinimize)
        chosen = [
            [pulp.LpVariable(f"x_{i}_{j}", cat="Binary") for j in range(len(pool))]
            for i, pool in enumerate(problem.ops)
        ]
        model += _sum(pulp, problem.scores, chosen)
        model += _sum(pulp, problem.costs["ms"], chosen) <= problem.limits["ms"]
        for row in chosen:
            model += pulp.lpSum(row) == 1
        for plan in plans:
            shared = pulp.lpSum(row[op] for row, op in zip(chosen, plan, strict=True))
            model += shared <= problem.overlap_limit
        options = {"msg": 0, "threads": 1, "timeLimit": left, "gapRel": gap or None}
        model.solve(pulp.PULP_CBC_CMD(**options))
        if model.sol_status != pulp.LpSolutionOptimal:
            break
        plans.append([max(range(len(row)), key=lambda j: row[j].value()) for row in chosen])
        rows.append(
            {
                "cbc": used() - cbc,
                "pulp": time.process_time() - python,
                "score": sum(r[j] for r, j in zip(problem.scores, plans[-1], strict=True)),
            }
        )
    return rows


def _sum(pulp: Any, table: Any, chosen: Any) -> Any:
    return pulp.lpSum(
        value * variable
        for values, row in zip(table, chosen, strict=True)
        for value, variable in zip(values, row, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["first", "plans", "pareto"])
    parser.add_argument("--instances", nargs="+", default=sorted(INSTANCES), choices=INSTANCES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--slots", type=int, default=46)
    parser.add_argument("--ops", type=int, default=197)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=300.0, help="of lanac, wall clock")
    parser.add_argument("--cbc-seconds", type=float, default=0.0, help="CPU; 0: without CBC")
    given = parser.parse_args()
    solve(problem_of(realistic(3, 3, 0), 1))  # imports are not what is measured
    for name in given.instances:
        for seed in given.seeds:
            instance = INSTANCES[name](given.slots, given.ops, seed)
            row = {"instance": name, "seed": seed, **measure(given, instance)}
            print(json.dumps(row), flush=True)


def measure(given: argparse.Namespace, instance: Instance) -> dict[str, object]:
    """One instance; CPU seconds from the arrays to verified plans."""
    count = {"first": 1, "pareto": 1}.get(given.what, given.count)
    if given.what == "pareto":
        begun = time.process_time()
        total = float(instance[1][:, -1].sum())
        limits = [share * total for share in np.linspace(0.3, 0.9, 20)]
        front = pareto(problem_of(instance, 1), "ms", limits)
        cpu = round(time.process_time() - begun, 3)
        ends = sorted({point.status.value for point in front})
        return {"cpu": cpu, "ends": ends}
    cbc: list[dict[str, float]] = []
    if given.cbc_seconds:
        cbc = cbc_plans(problem_of(instance, count), given.gap, given.cbc_seconds)
    reached = len(cbc) or count
    begun = time.process_time()
    problem = problem_of(instance, reached)
    answer = solve(problem, gap=given.gap, time_limit_s=given.seconds)
    cpu = time.process_time() - begun
    row: dict[str, object] = {
        "plans": len(answer.plans),
        "status": answer.status.value,
        "cpu": round(cpu, 3),
        "worst gap": max((plan.gap for plan in answer.plans), default=None),
    }
    if cbc:
        row |= {"cbc plans": len(cbc), "cbc cpu": round(cbc[-1]["cbc"], 2)}
        row |= {"pulp cpu": round(cbc[-1]["pulp"], 2), "ratio": round(cbc[-1]["cbc"] / cpu, 1)}
        pairs = zip(answer.plans, cbc, strict=False)
        worst = max(abs(a.score - b["score"]) / max(1e-12, abs(b["score"])) for a, b in pairs)
        row["scores differ by at most"] = worst
    return row


if __name__ == "__main__":
    main()
