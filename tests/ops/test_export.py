"""Ops as ONNX: for the timing, and as parts of an emitted student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends.base import BACKENDS
from lanac.backends.onnxruntime import export_for_timing, session
from lanac.ir import OpSpec, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.targets import parse_target

CPU = parse_target("cpu")

MakeView = Callable[..., SlotView]
FAMILY_NAMES = ("efn", "efnv2", "cb_stack", "cb_bottle", "cb_res", "repvgg", "conv_cs")
FEW = [
    "efn(e=6,k=5,se=0.04)",
    "efnv2(e=3,k=3,se=0.025)",
    "cb_stack(k=5,w=0.5)",
    "cb_bottle(k=7,w=0.25)",
    "cb_res(k=3)",
    "repvgg(k=3)",
    "conv_cs(k=3,p=shuffle)",
    "conv_cs(k=1,p=shift)",
]
SLOTS = [(8, 8, 1, (14, 13)), (8, 12, 2, (15, 14)), (12, 12, 4, (8, 8))]


def trained(op: OpSpec, view: SlotView) -> nn.Module:
    """The op with statistics as training leaves them: what folds batch norms has to be right."""
    module = build_op(op, view, seed=0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.05, 0.3)
            part.weight.data.uniform_(0.5, 1.5)
    return module


def assert_exported(op: OpSpec, view: SlotView) -> None:
    module = trained(op, view)
    x = torch.randn(2, *view.input_spec.sample_shape)
    exported = export_for_timing(folded(module), (x,))
    (found,) = session(exported, threads=1).run(None, {"timed_input_0": x.numpy()})
    with torch.no_grad():
        expected = module(x).numpy()
    assert expected.std() > 0.1, op
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=str(op))


def views(make_view: MakeView) -> list[SlotView]:
    return [
        make_view(nn.Conv2d(inputs, outputs, 3, stride, 1), torch.zeros(2, inputs, *size))
        for inputs, outputs, stride, size in SLOTS
    ]


@pytest.mark.parametrize("text", FEW)
def test_what_is_timed_computes_the_op(make_view: MakeView, text: str) -> None:
    for view in views(make_view):
        assert_exported(parse_op(text), view)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_all_ops_of_a_family_can_be_timed(make_view: MakeView, name: str) -> None:
    for view in views(make_view):
        for op in FAMILIES.get(name).enumerate(view):
            assert_exported(op, view)


class Chain(nn.Module):
    """One op of every family, one after the other."""

    def __init__(self, view: SlotView) -> None:
        super().__init__()
        self.ops = nn.ModuleList([trained(parse_op(text), view) for text in FEW])

    def forward(self, x: Tensor) -> Tensor:
        for op in self.ops:
            x = x + 0.1 * op(x)
        return x


class _Whole(fx.Tracer):
    """Ops stay modules, as in a student."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name.startswith("ops.")


@pytest.mark.parametrize(("name", "tolerance"), [("pytorch", 1e-6), ("onnx", 1e-4)])
def test_a_student_of_all_families_is_emitted(
    make_view: MakeView, tmp_path: Path, name: str, tolerance: float
) -> None:
    """For one sample and for many: the batch stays free."""
    view = views(make_view)[0]
    chain = Chain(view).eval()
    student = folded(fx.GraphModule(chain, _Whole().trace(chain), class_name="Student"))
    x = torch.randn(5, *view.input_spec.sample_shape)
    backend = BACKENDS.get(name)
    run = backend.load(backend.emit(student, tmp_path, (x,), CPU), CPU)
    with torch.no_grad():
        for some in (x, x[:1]):
            (found,), expected = run(some), student(some)
            assert torch.allclose(found, expected, atol=tolerance * float(expected.abs().max()))
