"""What does refinement bring? The best plan at one budget without it, with rescoring, with pairs.

    python benchmarks/refining.py fashion_mnist.lanac --budgets 0.5x,0.35x

Uses the workspace that a run of the example has left; nothing is trained or timed, and no loss is
taken from or put into the workspace. Every way starts from the same K plans (LANA, Eq. 4), evaluated
in the same way:

    none        the best of these
    rescoring   `RefinePlans`: around the best plan, ops are scored anew and the selection is solved again
    pairs       no rescoring: the scores of the teacher with pair terms, measured in the teacher
    both        `RefinePlans` with pair terms around the best plan

A way costs the forward passes that it asks for, also those that another way asked for before (they
are kept in memory), at the CPU time of all that were run. The loss of the chosen plan is measured
again on many other training images, as the difference to the plan of `none` on the same batches, with
its standard error: what is better on the images that decided need not be better on others.

Kendall's tau is that of the predicted against the measured loss, before (the sum of scores) and after
(scores around the best of the K plans, all changes of one slot measured), over random plans between
0.9 and 1 of the limit: of the whole pool, and near that plan (up to four slots of it changed).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from prepared import parser_of, prepared

from lanac.compilation import Compilation, Finalist
from lanac.ir import TEACHER, Plan
from lanac.passes import EvaluatePlans, RefinePlans, SelectPlans, run_passes
from lanac.passes.evaluate_plans import PlanEvaluation
from lanac.passes.refine_plans import Neighbourhood
from lanac.passes.select_plans import selection_problem
from lanac.solver import SelectionProblem
from lanac.solver.reduce import exact_score
from lanac.targets import LATENCY, parse_budgets
from lanac.workspace import Result, Workspace


class Forgetful(Workspace):
    """A workspace that keeps losses of plans in memory, as long as the script runs."""

    losses: ClassVar[dict[str, Result]] = {}
    asked: ClassVar[set[str]] = set()

    def get(self, kind: str, key: str) -> Result | None:
        if kind != "plan loss":
            return super().get(kind, key)
        self.asked.add(key)
        return self.losses.get(key)

    def put(self, kind: str, key: str, result: Result) -> None:
        if kind == "plan loss":
            self.losses[key] = result
        else:
            super().put(kind, key, result)


class Fresh(PlanEvaluation):
    """Losses batch by batch, of networks that are asked for again and again."""

    def batch_losses(self, networks: list[Any], place: int) -> list[float]:
        self._kept: dict[int, dict[Any, float]] = getattr(self, "_kept", {})
        kept = self._kept.setdefault(place, {})
        missing = [network for network in dict.fromkeys(networks) if network not in kept]
        if missing:
            batch = self._load(range(128 * place, 128 * (place + 1)))
            kept |= dict(self._measured(missing, batch))
        return [kept[network] for network in networks]


def kendall_tau(first: list[float], second: list[float]) -> float:
    """Pairs in the same order minus pairs in opposite order, over all pairs (tau-a)."""
    pairs = itertools.combinations(zip(first, second, strict=True), 2)
    signs = [np.sign(a - c) * np.sign(b - d) for (a, b), (c, d) in pairs]
    return float(np.mean(signs))


def random_choices(problem: SelectionProblem, count: int, rng: random.Random) -> list[tuple]:
    """Plans between 0.9 and 1 of the limit: good ops are likelier, at a random price of latency."""
    limit, found = problem.limits[LATENCY], set()
    spread = np.median([abs(score) for row in problem.scores for score in row])
    while len(found) < count:
        price = rng.uniform(0, 40 * spread) / limit
        choices = tuple(
            min(
                range(len(scores)),
                key=lambda op: scores[op] + price * costs[op] + spread * rng.gauss(0, 1),
            )
            for scores, costs in zip(problem.scores, problem.costs[LATENCY], strict=True)
        )
        total = problem.constants[LATENCY] + sum(
            row[op] for row, op in zip(problem.costs[LATENCY], choices, strict=True)
        )
        if 0.9 * limit <= total <= limit:
            found.add(choices)
    return sorted(found)


class Ways:
    """The ways to refine, at one budget."""

    def __init__(self, compilation: Compilation, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.evaluate = EvaluatePlans(arguments.images)
        self.compilation = run_passes(compilation, [SelectPlans(arguments.plans), self.evaluate])
        self.compilation = self.compilation.having(chosen=self.compilation.need("finalists")[0])

    def options(self, rounds: int, pairs: int) -> RefinePlans:
        given = self.arguments
        return RefinePlans(
            rounds, given.change_images, given.changes, pairs=pairs, pair_ops=given.pair_ops,
            evaluation=self.evaluate,
        )  # fmt: skip

    def none(self) -> Finalist:
        chosen: Finalist = self.compilation.need("chosen")
        return chosen

    def rescoring(self, pairs: int = 0) -> Finalist:
        refine = self.options(self.arguments.rounds, pairs)
        refined = run_passes(self.compilation, [refine])
        for place, item in enumerate(refined.refined, 1):
            print(f"  round {place}: {item}", file=sys.stderr)
        return min(refined.need("finalists"), key=lambda item: item.loss)

    def both(self) -> Finalist:
        return self.rescoring(self.arguments.pairs)

    def pairs(self) -> Finalist:
        compilation = self.compilation
        slots = compilation.need("program").slots
        own = Plan((TEACHER,) * len(slots), 0.0, {}, 0.0)
        options = replace(self.options(1, self.arguments.pairs), plans=self.arguments.plans)
        nearby = Neighbourhood(options, compilation, own)
        nearby.problem = replace(
            nearby.problem, max_overlap=selection_problem(compilation, 1, 0.7).max_overlap
        )
        plans = tuple(nearby.plans([]))
        best = self.evaluate.run(compilation.having(plans=plans)).need("finalists")[0]
        return min(best, compilation.need("chosen"), key=lambda item: item.loss)


def near_choices(
    problem: SelectionProblem, base: tuple, count: int, rng: random.Random
) -> list[tuple]:
    """Plans between 0.9 and 1 of the limit with one to four slots of a plan changed."""
    limit, found = problem.limits[LATENCY], set()
    while len(found) < count:
        choices = list(base)
        for slot in rng.sample(range(len(base)), rng.randint(1, 4)):
            choices[slot] = rng.randrange(len(problem.ops[slot]))
        total = problem.constants[LATENCY] + sum(
            row[op] for row, op in zip(problem.costs[LATENCY], choices, strict=True)
        )
        if 0.9 * limit <= total <= limit and tuple(choices) != tuple(base):
            found.add(tuple(choices))
    return sorted(found)


def tau(
    compilation: Compilation, ways: Ways, fresh: PlanEvaluation, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Kendall's tau of each model over each kind of random plans, losses on at most 1,024 other images."""
    problem = selection_problem(compilation, 1, 1.0)
    pool = [compilation.need("pool")[name] for name in problem.slots]
    models, base = {"sum of scores": problem}, ()
    for name, pairs in (("rescored", 0), ("rescored with pairs", arguments.pairs)):
        options = replace(ways.options(1, pairs), changes=10_000)
        nearby = Neighbourhood(options, compilation, ways.none().plan)
        models[name], base = nearby.problem, nearby.base
    rng, count = random.Random(1), arguments.random_plans
    kinds = {
        "of the whole pool": random_choices(problem, count, rng),
        "near the plan": near_choices(problem, base, count, rng),
    }
    result = {}
    for kind, plans in kinds.items():
        networks = [tuple(row[c] for row, c in zip(pool, plan, strict=True)) for plan in plans]
        losses = fresh.losses(networks, min(1024, arguments.fresh_images), lambda _: None)
        measured = [losses[network] for network in networks]
        result[kind] = {
            name: round(kendall_tau([float(exact_score(model, p)) for p in plans], measured), 3)
            for name, model in models.items()
        }
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--budgets", default="0.5x,0.35x")
    parser.add_argument("--ways", default="none,rescoring,pairs,both")
    parser.add_argument("--plans", type=int, default=16)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--fresh-images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changes", type=int, default=RefinePlans.changes)
    parser.add_argument("--change-images", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--pair-ops", type=int, default=3)
    parser.add_argument("--random-plans", type=int, default=60)
    arguments = parser.parse_args()

    scored = prepared(arguments, arguments.budgets)
    scored = replace(scored, workspace=Forgetful(scored.workspace.folder))
    for budget in parse_budgets(arguments.budgets):
        compilation = replace(scored, budget=budget, tightening={LATENCY: 0.95})
        report: dict[str, Any] = {"budget": str(budget), "torch": torch.__version__}
        began = time.process_time()
        ways = Ways(compilation, arguments)
        spent, seconds, kept = 0.0, time.process_time() - began, 0
        report["K plans"] = {
            "CPU seconds": round(seconds, 1), "forward passes": len(Forgetful.asked),
        }  # fmt: skip
        other = replace(compilation, seed=compilation.seed + 1)  # draws other images
        fresh = Fresh(other, 128, arguments.fresh_images)
        teacher = (TEACHER,) * len(compilation.need("program").slots)
        best = None
        for way in arguments.ways.split(","):
            began = time.process_time()
            kept -= len(Forgetful.losses)
            Forgetful.asked.clear()
            found = getattr(ways, way)()
            spent += time.process_time() - began
            kept += len(Forgetful.losses)
            passes = len(Forgetful.asked) if way != "none" else 0
            first = ways.none().plan.ops
            by_batch = [
                fresh.batch_losses([found.plan.ops, first, teacher], place)
                for place in range(arguments.fresh_images // 128)
            ]
            own, least, above = np.array(by_batch).T
            best = found if best is None or found.loss < best.loss else best
            report[way] = {
                "loss above the teacher": round(found.loss - found.teacher_loss, 5),
                "on other images": round(float((own - above).mean()), 5),
                "against none": [
                    round(float(value), 5)
                    for value in ((own - least).mean(), (own - least).std() / len(own) ** 0.5)
                ],
                "CPU seconds": round(passes * spent / max(1, kept), 1),
                "forward passes": passes,
                "ops": [str(op) for op in found.plan.ops],
            }
            print(way, report[way], file=sys.stderr, flush=True)
        report["kendall tau"] = tau(compilation, ways, fresh, arguments)
        print(json.dumps(report, indent=2), flush=True)


if __name__ == "__main__":
    main()
