"""How long until there is a plan, from the start of the process.

    python benchmarks/time_to_plan.py --pool skip --out /tmp/skip       # no distillation
    python benchmarks/time_to_plan.py --budget 0.35x --out fashion_mnist.lanac   # a second budget

Prints the seconds of every pass and of the whole, and predicted against measured latency of the
finalists. It is the first plan that meets the budget: refining it and trying finalists begin there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

START = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from lanac.beginning import begin  # noqa: E402
from lanac.compiler import choose_plan, preparation  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.instruments import Instruments  # noqa: E402
from lanac.ops.pool import parse_pool  # noqa: E402
from lanac.passes import run_passes  # noqa: E402
from lanac.settings import Settings  # noqa: E402
from lanac.targets import LATENCY, parse_budgets  # noqa: E402


class Stopwatch(Instruments):
    """Seconds by pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pass_finished(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--pool", default="default")
    parser.add_argument("--model", type=Path, default=ROOT / "examples/fashion_mnist/model.py")
    parser.add_argument("--distill-samples", type=int, default=4096)
    parser.add_argument("--score-samples", type=int, default=1024)
    parser.add_argument("--evaluate-images", type=int, default=2000)
    arguments = parser.parse_args()

    watch = Stopwatch()
    file = load_model_file(arguments.model)
    settings = Settings(
        distill_samples=arguments.distill_samples,
        score_samples=arguments.score_samples,
        evaluate_images=arguments.evaluate_images,
        refine=0,
        finalist_steps=0,
    )
    begun = begin(
        file.model,
        train_data=file.train_data,
        val_data=file.val_data,
        budget=arguments.budget,
        out=arguments.out,
        instruments=watch,
    )
    passes = preparation(parse_pool(arguments.pool), parse_budgets(arguments.budget), settings)
    chosen = choose_plan(run_passes(begun, passes), settings)
    total = time.perf_counter() - START
    teacher = chosen.need("costs").teacher[LATENCY]
    report = {
        "seconds to plan": round(total, 1),
        "by pass": watch.seconds,
        "finalists": [
            {
                "predicted": round(item.plan.costs[LATENCY] / teacher, 4),
                "measured": round(item.costs[LATENCY] / teacher, 4),
                "loss": round(item.loss, 4),
            }
            for item in chosen.need("finalists")
        ],
        "plan": [str(op) for op in chosen.need("chosen").plan.ops],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
