"""Real TensorRT-RTX engines of rewritten networks, for a GPU that is not here.

Resolutions are small: engines depend on layers and channels, and those are the real ones.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends._engines import check_engine, library_version
from lanac.backends.agreement import compare
from lanac.backends.tensorrt_rtx import BACKEND
from lanac.frontend.build import build_program
from lanac.ir import TEACHER
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.pool import enumerate_slot, parse_pool
from lanac.targets import parse_target

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    library_version("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)


def rewritten(teacher: nn.Module, example: Tensor, pool: str) -> tuple[fx.GraphModule, int]:
    """The teacher with a cheap op, drawn by chance, in every slot that has one."""
    program = build_program(teacher, (example,))
    draw, members = random.Random(0), parse_pool(pool)
    modules = {}
    for slot in program.slots:
        view = SlotView.of(program, slot)
        ops = [op for op in enumerate_slot(program, slot, members) if op != TEACHER]
        if ops:
            modules[slot.name] = build_op(draw.choice(ops), view, 0)
    return program.rewrite(modules).eval(), len(modules)


def check(student: fx.GraphModule, x: Tensor, target: str, folder: Path) -> None:
    parsed = parse_target(target)
    files = BACKEND.emit(student, folder, (x,), parsed)
    check_engine(files[0])
    agreement = compare(
        BACKEND, files, parsed, lambda *inputs: (student(*inputs),), (x,), classes=False
    )
    assert agreement.is_good, agreement
    with torch.no_grad():
        assert float(student(x).std()) > 1e-3


def test_the_student_of_the_demo(
    statistics: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    path = ROOT / "examples" / "fashion_mnist" / "network.py"
    spec = importlib.util.spec_from_file_location("fashion_mnist_network", path)
    assert spec is not None and spec.loader is not None
    network = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(network)
    torch.manual_seed(0)
    x = torch.randn(2, 1, 28, 28)
    teacher = statistics(network.ResNet()).eval()
    student, changed = rewritten(teacher, x, "identity,slim,lowrank")
    assert changed >= 9
    check(student, x, "rtx3090:tensorrt_rtx:fp16", tmp_path)


@pytest.mark.parametrize(
    ("name", "size", "pool", "target"),
    [
        ("resnet50", 64, "identity,slim", "rtx4090:tensorrt_rtx:fp32"),
        ("efficientnet_b2", 64, "identity,slim,shrink_se,kernel", "t4:tensorrt_rtx:fp16"),
        ("vit_small_patch16_224", 64, "identity,slim,lowrank", "rtx5090:tensorrt_rtx:bf16"),
    ],
)
def test_real_networks(
    name: str,
    size: int,
    pool: str,
    target: str,
    statistics: Callable[[nn.Module], nn.Module],
    tmp_path: Path,
) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": size} if name.startswith("vit") else {}
    teacher = statistics(timm.create_model(name, num_classes=10, **options)).eval()
    x = torch.randn(2, 3, size, size)
    student, changed = rewritten(teacher, x, pool)
    assert changed >= 15
    check(student, x, target, tmp_path)
