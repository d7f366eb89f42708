"""Does the linear objective rank? Kendall's tau over random plans (the paper: 0.966 with accuracy).

    python benchmarks/ranking.py fashion_mnist.lanac --plans 120 --images 2000

Uses the workspace that a run of the example has left; nothing is trained. Predicted: the sum of
scores (Eq. 3). Measured: the loss of the whole network on training images that the scores were not
measured on, batch norm on current statistics.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "fashion_mnist")]

from lanac.beginning import begin  # noqa: E402
from lanac.compilation import Compilation  # noqa: E402 - the paths come first
from lanac.compiler import preparation  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.ir import TEACHER, OpSpec  # noqa: E402
from lanac.ops.pool import parse_pool  # noqa: E402
from lanac.passes import run_passes  # noqa: E402
from lanac.passes.evaluate_plans import PlanEvaluation  # noqa: E402
from lanac.settings import Settings  # noqa: E402
from lanac.targets import LATENCY  # noqa: E402


def kendall_tau(first: list[float], second: list[float]) -> float:
    """Pairs in the same order minus pairs in opposite order, over all pairs (tau-a)."""
    signs = [
        (a > c) - (a < c) if (b > d) else (a < c) - (a > c)
        for (a, b), (c, d) in itertools.combinations(zip(first, second, strict=True), 2)
    ]
    return sum(signs) / len(signs)


def random_plan(compilation: Compilation, rng: random.Random) -> tuple[OpSpec, ...]:
    """Each slot keeps the teacher's op with a probability that is itself drawn: all budgets."""
    keep = rng.random()
    ops = []
    for slot in compilation.need("program").slots:
        others = [op for op in compilation.need("pool")[slot.name] if op != TEACHER]
        ops.append(TEACHER if not others or rng.random() < keep else rng.choice(others))
    return tuple(ops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "examples/fashion_mnist/model.py")
    parser.add_argument("--plans", type=int, default=120)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--distill-samples", type=int, default=4096)
    parser.add_argument("--score-samples", type=int, default=1024)
    parser.add_argument("--pool", default="default")
    arguments = parser.parse_args()

    file = load_model_file(arguments.model)
    settings = Settings(
        distill_samples=arguments.distill_samples, score_samples=arguments.score_samples
    )
    begun = begin(file.model, train_data=file.train_data, val_data=file.val_data, out=arguments.out)
    passes = preparation(parse_pool(arguments.pool), [begun.budget], settings)
    prepared = run_passes(begun, passes)
    rng = random.Random(1)
    plans = [random_plan(prepared, rng) for _ in range(arguments.plans)]
    # Another seed draws other images than the scores were measured on.
    other = replace(prepared, seed=prepared.seed + 1)
    evaluation = PlanEvaluation(other, 128, arguments.images)
    losses = evaluation.losses(plans, arguments.images, lambda steps: None)
    slots = prepared.need("program").slots
    scores, costs = prepared.need("scores"), prepared.need("costs")
    predicted = [sum(scores[s.name][o] for s, o in zip(slots, p, strict=True)) for p in plans]
    measured = [losses[plan] for plan in plans]
    ratios = [costs.total(LATENCY, slots, plan) / costs.teacher[LATENCY] for plan in plans]
    mild = [i for i, ratio in enumerate(ratios) if ratio > 0.4]
    print(
        json.dumps(
            {
                "plans": len(plans),
                "latency ratios": [round(min(ratios), 3), round(max(ratios), 3)],
                "kendall tau": round(kendall_tau(predicted, measured), 3),
                "plans above 0.4x": len(mild),
                "kendall tau above 0.4x": round(
                    kendall_tau([predicted[i] for i in mild], [measured[i] for i in mild]), 3
                ),
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
