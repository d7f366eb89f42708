"""The two ONNX exporters on single ops: seconds per op, and the latency of what they give.

python benchmarks/exporters.py
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "fashion_mnist")]

from network import ResNet  # noqa: E402

from lanac.backends.onnx import export_model  # noqa: E402
from lanac.backends.onnxruntime import export_for_timing, timed_run  # noqa: E402
from lanac.frontend.partition import partition  # noqa: E402
from lanac.frontend.tracing import trace  # noqa: E402
from lanac.targets import sampler, time_interleaved  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    program = partition(*trace(ResNet(), (torch.randn(2, 1, 28, 28),)))
    rows = []
    for slot in program.slots[2:10:2]:
        op = program.teacher_op(slot)
        inputs = (torch.zeros(slot.input_spec.with_batch(1).shape),)
        start = time.process_time()
        older = export_for_timing(op, inputs)
        middle = time.process_time()
        newer = export_model(op, inputs, dynamic_batch=False).SerializeToString()
        end = time.process_time()
        runs = [timed_run(model, inputs, 1) for model in (older, newer)]
        times = time_interleaved([sampler(run, True) for run in runs], rounds=41)
        ratio = times[0].median_ms / times[1].median_ms
        rows.append((middle - start, end - middle, ratio))
    older_s, newer_s, ratios = zip(*rows, strict=True)
    report = {
        "older exporter, CPU-seconds per op": round(statistics.median(older_s), 3),
        "newer exporter, CPU-seconds per op": round(statistics.median(newer_s), 3),
        "latency of the older one's model over the newer one's": [round(r, 3) for r in ratios],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
