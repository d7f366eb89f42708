from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import OpSpec
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.relu import FAMILY

MakeView = Callable[..., SlotView]
RELU = OpSpec("relu")


class Mixed(nn.Module):
    """Activations as modules and as functions, and one in a gate."""

    def __init__(self, act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.one, self.act = nn.Conv2d(4, 12, 1), act()
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.reduce, self.restore = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.two = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.deep(self.act(self.one(x))))
        gate = self.restore(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.two(x * gate)


def functions(module: fx.GraphModule) -> list[str]:
    return [n.target.__name__ for n in module.graph.nodes if n.op == "call_function"]


def error(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = teacher(x)
        return float((student(x) - wanted).square().sum() / wanted.square().sum())


def test_activations_on_maps_are_replaced_those_in_gates_are_not(make_view: MakeView) -> None:
    student = build_op(RELU, make_view(Mixed(), torch.zeros(2, 4, 6, 6)), 0)
    assert isinstance(student.get_submodule("act"), nn.ReLU)
    assert isinstance(student, fx.GraphModule)
    assert [name for name in functions(student) if name in ("relu", "gelu", "silu")] == [
        "relu",
        "silu",
    ]


@pytest.mark.parametrize("act", [nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU])
def test_where_inputs_are_large_and_positive_nothing_changes(
    make_view: MakeView, act: type[nn.Module]
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 1), act(), nn.Conv2d(5, 2, 1)).eval()
    with torch.no_grad():
        module[0].bias.fill_(60)
    x = torch.rand(20, 3, 4, 4)
    for calibration in (None, x):
        student = build_op(RELU, make_view(module, x, calibration), 0)
        with torch.no_grad():
            assert torch.allclose(student(x), module(x), rtol=1e-5, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 20), st.sampled_from([nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU]))
def test_fitting_never_hurts_on_the_calibration_samples(
    make_view: MakeView, inner: int, act: type[nn.Module]
) -> None:
    module = nn.Sequential(nn.Conv2d(4, inner, 3), act(), nn.Conv2d(inner, 4, 3)).eval()
    x = torch.randn(30, 4, 9, 9)
    plain, fitted = (build_op(RELU, make_view(module, x, c), 0) for c in (None, x))
    assert error(fitted, module, x) <= error(plain, module, x) + 1e-9


def test_a_norm_with_an_activation_inside(make_view: MakeView) -> None:
    from timm.layers import BatchNormAct2d

    from lanac.frontend.partition import partition
    from lanac.frontend.tracing import trace

    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), BatchNormAct2d(8, act_layer=nn.SiLU), nn.Conv2d(8, 4, 1)
    ).eval()
    x = torch.randn(40, 3, 5, 5)
    program = partition(trace(model, (x,)))
    view = SlotView.of(program, program.slots[0], x)
    assert [str(op) for op in FAMILY.enumerate(view)] == ["relu"]
    student = build_op(RELU, view, 0)
    norms = [m for m in student.modules() if isinstance(m, BatchNormAct2d)]
    assert [type(norm.act) for norm in norms] == [nn.ReLU]
    assert isinstance(model[1].act, nn.SiLU)


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Sigmoid(), nn.Conv2d(4, 4, 1)])
def test_what_is_cheap_has_no_op(make_view: MakeView, layer: nn.Module) -> None:
    assert list(FAMILY.enumerate(make_view(nn.Sequential(layer), torch.zeros(2, 4, 5, 5)))) == []


def test_it_trains_and_the_teacher_stays(make_view: MakeView) -> None:
    module, x = Mixed(), torch.randn(40, 4, 6, 6)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    student = build_op(RELU, make_view(module, x, x), 0).train()
    student(torch.randn(3, 4, 8, 5)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert isinstance(module.act, nn.SiLU)
