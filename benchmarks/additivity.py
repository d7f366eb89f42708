"""Do the costs of parts add up to whole networks? Predicted against measured over random plans.

    python benchmarks/additivity.py --network resnet18 --size 128 --target cpu:openvino
    python benchmarks/additivity.py --network example

The plans are not those that the cost model was fitted on. They are drawn until they are predicted
between 1.1 and 3 times as fast as the teacher. Weights are random: latency does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from lanac.beginning import begin  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.ir import TEACHER, OpSpec  # noqa: E402
from lanac.ops.pool import parse_pool  # noqa: E402
from lanac.passes import EnumeratePool, MeasureCosts, run_passes  # noqa: E402
from lanac.passes.op_modules import OpModules  # noqa: E402
from lanac.passes.time_parts import Part, PartTimer  # noqa: E402
from lanac.targets import LATENCY, Effort  # noqa: E402
from lanac.workspace import key_of  # noqa: E402

POOL = "identity,slim(w=0.5),slim(w=0.25),lowrank(r=0.5),efn(e=3,k=3,se=0),cb_bottle(k=3,w=0.5)"
FASTEST, SLOWEST = 1 / 3, 1 / 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="example", help="example, or a name of timm")
    parser.add_argument("--size", type=int, default=224, help="pixels, for a network of timm")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--pool", default=POOL)
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--workspace", type=Path, help="default: a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, cpu = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as scratch:
        begun = begin(
            **task(arguments.network, arguments.size),
            target=arguments.target,
            out=Path(scratch) / "out",
            workspace=arguments.workspace or Path(scratch) / "workspace",
        )
        passes = [EnumeratePool(parse_pool(arguments.pool)), MeasureCosts()]
        measured = run_passes(begun, passes)
        rows = compare_plans(measured, arguments.plans)
    errors = [predicted / real - 1 for predicted, real in rows]
    report = {
        "network": arguments.network,
        "target": str(measured.target),
        "ops": sum(map(len, measured.need("pool").values())),
        "teacher_ms": round(measured.need("costs").teacher[LATENCY], 3),
        "predicted and measured, of the teacher": [(round(p, 3), round(m, 3)) for p, m in rows],
        "mean error": round(statistics.mean(map(abs, errors)), 4),
        "worst error": round(max(map(abs, errors)), 4),
        "bias": round(statistics.mean(errors), 4),
        "error that the fit states": round(measured.need("costs").error, 4),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "minutes of CPU here": round((time.process_time() - cpu) / 60, 1),
    }
    print(json.dumps(report), flush=True)


def task(network: str, size: int) -> dict[str, Any]:
    """What `begin` needs of a network."""
    if network == "example":
        file = load_model_file(ROOT / "examples/fashion_mnist/model.py")
        return {"model": file.model, "train_data": file.train_data}
    import timm

    options = {"img_size": size} if network.startswith("vit") else {}
    data = torch.utils.data.TensorDataset(torch.zeros(20, 3, size, size), torch.zeros(20).long())
    return {"model": timm.create_model(network, **options).eval(), "train_data": data}


def compare_plans(measured: Any, count: int) -> list[tuple[float, float]]:
    """(predicted, measured) latency of random plans, as shares of the teacher's."""
    program, costs, pool = (measured.need(name) for name in ("program", "costs", "pool"))
    modules, rng = OpModules(measured), random.Random(12345)
    table = costs.costs[LATENCY]
    plans: list[tuple[tuple[OpSpec, ...], float]] = []
    while len(plans) < count:
        keep = rng.random()
        ops = []
        for slot in program.slots:
            own = table[slot.name][TEACHER]
            faster = [op for op in pool[slot.name] if table[slot.name][op] <= own]
            ops.append(TEACHER if rng.random() < keep else rng.choice(faster))
        predicted = costs.total(LATENCY, program.slots, ops) / costs.teacher[LATENCY]
        if FASTEST <= predicted <= SLOWEST:
            plans.append((tuple(ops), predicted))

    def network(ops: tuple[OpSpec, ...]) -> Callable[[], torch.nn.Module]:
        changed = {slot: op for slot, op in zip(program.slots, ops, strict=True) if op != TEACHER}
        return lambda: program.rewrite(
            {slot.name: modules.get(slot, op) for slot, op in changed.items()}
        )

    with PartTimer(measured) as timer:
        specs, own = timer.whole.specs, (TEACHER,) * len(program.slots)
        parts = [
            Part(key_of("plan", ops, timer.whole.key), network(ops), specs)
            for ops in [own, *(o for o, _ in plans)]
        ]
        effort = Effort(within=0.01, least=11, most=41, warmups=3)
        timer.time(parts, "measuring plans", effort, sessions=3)
        teacher, *wholes = (timer.times[part.key] for part in parts)
    return [
        (predicted, whole / teacher) for (_, predicted), whole in zip(plans, wholes, strict=True)
    ]


if __name__ == "__main__":
    main()
