"""What the low-precision files of rewritten networks differ by, and TensorRT-RTX engines of them.

Random weights with batch norm statistics, full resolution; a cheap op, drawn by chance, in every slot.
The engines are built for GPUs that need not be here, and are not run.

    python benchmarks/engines.py
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, fx, nn

from lanac.backends.agreement import compare
from lanac.backends.base import BACKENDS, Backend
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx import export_model, save_model
from lanac.frontend.build import build_program
from lanac.ir import TEACHER
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.pool import enumerate_slot, parse_pool
from lanac.targets import parse_target

NETWORKS = (
    ("efficientnet_b2", 260, "identity,slim,shrink_se,kernel"),
    ("resnet50", 224, "identity,slim"),
    ("vit_small_patch16_224", 224, "identity,slim,lowrank"),
)
OUTPUTS = (
    ("openvino", "cpu:openvino:fp32"),
    ("openvino", "cpu:openvino:bf16"),
    ("onnx_fp16", "cpu"),
    ("onnx_bf16", "cpu"),
    ("tensorrt_rtx", "t4:fp16"),
    ("tensorrt_rtx", "rtx3090:fp16"),
    ("tensorrt_rtx", "rtx4090:fp32"),
    ("tensorrt_rtx", "rtx5090:bf16"),
)


def with_statistics(module: nn.Module) -> nn.Module:
    """Gives batch norms statistics: fresh networks output next to nothing, and all would agree."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2.0)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.uniform_(-0.5, 0.5)
    return module


def rewritten(teacher: nn.Module, example: Tensor, pool: str) -> fx.GraphModule:
    program = build_program(teacher, (example,))
    draw, members = random.Random(0), parse_pool(pool)
    modules = {}
    for slot in program.slots:
        ops = [op for op in enumerate_slot(program, slot, members) if op != TEACHER]
        if ops:
            modules[slot.name] = build_op(draw.choice(ops), SlotView.of(program, slot), 0)
    return program.rewrite(modules).eval()


def main() -> None:
    torch.manual_seed(0)
    print("| network | output | seconds | relative error | same top-1 | MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, size, pool in NETWORKS:
        teacher = with_statistics(timm.create_model(name)).eval()
        x = torch.randn(8, 3, size, size)
        student = rewritten(teacher, x, pool)
        with tempfile.TemporaryDirectory() as scratch:
            exact, *_ = save_model(export_model(student, (x,)), Path(scratch))
            for output, text in OUTPUTS:
                backend: Backend = BACKENDS.get(output)
                assert isinstance(backend, FromOnnx)
                target, folder = parse_target(text), Path(scratch) / text.replace(":", "-")
                folder.mkdir(exist_ok=True)
                began = time.perf_counter()
                files = backend.convert(exact, folder, target)
                seconds = time.perf_counter() - began
                found = compare(
                    backend, files, target, lambda x, run=student: (run(x),), (x,), classes=True
                )
                megabytes = sum(path.stat().st_size for path in files[:2]) / 1e6
                if output != "openvino":
                    megabytes = files[0].stat().st_size / 1e6
                print(
                    f"| {name} {size} px | {output} {text} | {seconds:.1f} | {found.error:.1e} | "
                    f"{100 * (found.same or 0):.0f} % | {megabytes:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
