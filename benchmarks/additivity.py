"""Do the costs of parts add up to whole networks? Predicted against measured over random plans.

    python benchmarks/additivity.py --plans 12 --out /tmp/additivity

The plans are not those that the cost model was fitted on; everything is measured in one run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from lanac.backends import onnxruntime  # noqa: E402
from lanac.beginning import begin  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.ir import TEACHER  # noqa: E402
from lanac.ops.base import SlotView  # noqa: E402
from lanac.ops.build import build_op  # noqa: E402
from lanac.ops.pool import parse_pool  # noqa: E402
from lanac.passes import EnumeratePool, MeasureCosts, run_passes  # noqa: E402
from lanac.passes.time_finalists import target_inputs  # noqa: E402
from lanac.targets import LATENCY, time_interleaved  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plans", type=int, default=12)
    parser.add_argument("--pool", default="default")
    parser.add_argument("--model", type=Path, default=ROOT / "examples/fashion_mnist/model.py")
    arguments = parser.parse_args()

    file = load_model_file(arguments.model)
    begun = begin(file.model, train_data=file.train_data, out=arguments.out)
    members = parse_pool(arguments.pool)
    measured = run_passes(begun, [EnumeratePool(members), MeasureCosts()])
    program, costs, pool = (measured.need(name) for name in ("program", "costs", "pool"))
    rng = random.Random(12345)
    plans = []
    for _ in range(arguments.plans):
        keep = rng.random()
        plans.append(
            [
                TEACHER if rng.random() < keep else rng.choice(pool[slot.name])
                for slot in program.slots
            ]
        )
    inputs, threads = target_inputs(program, measured.target.batch), measured.target.threads
    networks = [program.teacher]
    for plan in plans:
        chosen = {
            slot.name: build_op(op, SlotView.of(program, slot), 0)
            for slot, op in zip(program.slots, plan, strict=True)
        }
        networks.append(program.rewrite(chosen))
    runs = [
        onnxruntime.timed_run(onnxruntime.export_for_timing(network, inputs), inputs, threads)
        for network in networks
    ]
    teacher, *wholes = time_interleaved(runs, threads=threads, rounds=61)
    rows = []
    for plan, whole in zip(plans, wholes, strict=True):
        predicted = costs.total(LATENCY, program.slots, plan) / costs.teacher[LATENCY]
        rows.append((predicted, whole.median_ms / teacher.median_ms))
    errors = [predicted / real - 1 for predicted, real in rows]
    report = {
        "predicted and measured, of the teacher": [(round(p, 3), round(m, 3)) for p, m in rows],
        "mean error": round(statistics.mean(map(abs, errors)), 4),
        "worst error": round(max(map(abs, errors)), 4),
        "bias": round(statistics.mean(errors), 4),
        "error that the fit states": round(costs.error, 4),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
