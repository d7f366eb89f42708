"""What does it save to evaluate plans together? The same losses, alone and with shared beginnings.

    python benchmarks/evaluating.py fashion_mnist.lanac --plans 100 --images 256

Uses the workspace that a run of the example has left; nothing is trained, nothing is stored. The
two ways take turns batch by batch, so that what else the machine does weighs on both; CPU time.
Printed are the ratio as timed, the share of op runs that is left, and what successive halving adds:
forward passes of `EvaluatePlans` against every plan seeing all images.
"""

from __future__ import annotations

import json
import math
import time

import torch
from prepared import parser_of, prepared

from lanac.compilation import Compilation
from lanac.passes import EvaluatePlans, SelectPlans, run_passes
from lanac.passes.assemble import load_op
from lanac.passes.evaluate_plans import PlanEvaluation
from lanac.passes.score_candidates import evaluation_indices
from lanac.training.batch_norm import current_statistics
from lanac.training.data import in_order
from lanac.training.prefixes import slot_runs


class Alone:
    """Each plan as a network of its own; ops are loaded once."""

    def __init__(self, compilation: Compilation, plans: list) -> None:
        program = compilation.need("program")
        ops = {
            (slot.name, op): load_op(compilation, slot, op)
            for plan in plans
            for slot, op in zip(program.slots, plan, strict=True)
        }
        self.task = compilation.task
        self.networks = {
            plan: program.rewrite(
                {s.name: ops[s.name, op] for s, op in zip(program.slots, plan, strict=True)}
            ).eval()
            for plan in plans
        }

    @torch.no_grad()
    def measure(self, plans: list, batch: object) -> dict:
        found = {}
        for plan in plans:
            with current_statistics(self.networks[plan]):
                outputs = self.networks[plan](*batch.inputs)
                found[plan] = float(self.task.loss(outputs, batch, None))
        return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--plans", type=int, default=100)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()

    selection = SelectPlans(arguments.plans, exact_s=5, time_limit_s=90)
    selected = run_passes(prepared(arguments, arguments.budget), [selection])
    plans = list(dict.fromkeys(plan.ops for plan in selected.need("plans")))
    evaluation = PlanEvaluation(selected, 128, arguments.images)
    alone = Alone(selected, plans)
    data = selected.task.train
    indices = evaluation_indices(len(data), arguments.images, selected.seed)
    seconds = {"alone": 0.0, "together": 0.0}
    worst = 0.0
    for part in in_order(arguments.images, 128):
        [batch] = data.batches([[indices[place] for place in part]], selected.seed)
        began = time.process_time()
        one = alone.measure(plans, batch)
        middle = time.process_time()
        other = dict(evaluation._measured(plans, batch))
        ended = time.process_time()
        seconds["alone"] += middle - began
        seconds["together"] += ended - middle
        worst = max(worst, *(abs(one[plan] - other[plan]) for plan in plans))
    shared, all_runs = slot_runs(plans)
    rounds = EvaluatePlans().rounds(len(data), len(plans))
    before, passed = 0, 0
    for keep, images in rounds:
        passed += keep * math.ceil((images - before) / 128)
        before = images
    full = len(plans) * math.ceil(rounds[-1][1] / 128)
    print(
        json.dumps(
            {
                "plans": len(plans),
                "images": arguments.images,
                "CPU seconds": {name: round(value, 2) for name, value in seconds.items()},
                "alone over together": round(seconds["alone"] / seconds["together"], 2),
                "largest difference of a loss": worst,
                "op runs": [shared, all_runs],
                "forward passes with halving": [passed, full],
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
