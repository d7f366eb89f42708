from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import OpSpec
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.lowrank import (
    FAMILY,
    SHARES,
    Factoring,
    _two_factors,
    choose_factoring,
    factored,
)
from lanac.targets import count_flops

MakeView = Callable[..., SlotView]


def built(view: SlotView, share: float) -> nn.Module:
    return build_op(OpSpec.of("lowrank", r=share), view, seed=0)


def error(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = teacher(x)
        return float((student(x) - wanted).square().sum() / wanted.square().sum())


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
    spatial=st.booleans(),
)
def test_full_rank_is_exact(
    kernel: Any, stride: Any, dilation: Any, padding: Any, bias: bool, spatial: bool
) -> None:
    layer = nn.Conv2d(3, 5, kernel, stride, padding, dilation, bias=bias)
    rank = min(3 * kernel[0], 5 * kernel[1]) if spatial else min(3 * kernel[0] * kernel[1], 5)
    pair = factored(layer, Factoring(rank, spatial))
    x = torch.randn(2, 3, 11, 12)
    with torch.no_grad():
        assert torch.allclose(pair(x), layer(x), atol=1e-4)


@pytest.mark.parametrize("outputs", [4, 9])
def test_a_linear_layer_of_full_rank_is_exact(outputs: int) -> None:
    layer = nn.Linear(6, outputs)
    x = torch.randn(2, 4, 6)
    with torch.no_grad():
        assert torch.allclose(
            factored(layer, Factoring(min(6, outputs), False))(x), layer(x), atol=1e-5
        )


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 12), (12, 20)])
def test_no_product_of_that_rank_is_nearer(inputs: int, outputs: int) -> None:
    """Eckart and Young: what is lost are the other singular values of the outputs."""
    x = torch.randn(200, inputs).double() * torch.logspace(-1, 1, inputs).double()
    matrix = torch.randn(inputs, outputs).double()
    left, right = _two_factors(x.T @ x, matrix, 5)
    lost = (x @ (matrix - left @ right)).square().sum()
    assert torch.allclose(lost, torch.linalg.svdvals(x @ matrix)[5:].square().sum(), rtol=1e-6)


def test_the_form_of_smaller_error_is_chosen() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1)
    with torch.no_grad():
        columns, rows = torch.randn(8, 32, 3, 1), torch.randn(32, 8, 1, 3)
        layer.weight.copy_(torch.einsum("rciu,orvj->ocij", columns, rows))
        assert choose_factoring(layer, 0.3) == Factoring(8, spatial=True)
        layer.weight.copy_(
            torch.einsum("or,rcij->ocij", torch.randn(32, 8), torch.randn(8, 32, 3, 3))
        )
        assert choose_factoring(layer, 0.3) == Factoring(8, spatial=False)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_share_is_that_of_the_multiplications(
    make_view: MakeView, share: float, stride: int
) -> None:
    module = nn.Sequential(nn.Conv2d(64, 96, 3, stride, 1))
    x = torch.zeros(1, 64, 12, 12)
    student = built(make_view(module, torch.zeros(2, 64, 12, 12)), share)
    ratio = count_flops(student, (x,)) / count_flops(module, (x,))
    assert share * 0.7 <= ratio <= share


def test_what_gets_no_cheaper_has_no_op(make_view: MakeView) -> None:
    for layer in (nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()):
        view = make_view(nn.Sequential(layer), torch.zeros(2, 16, 5, 5))
        assert list(FAMILY.enumerate(view)) == []


class Two(nn.Module):
    """A large layer and one that hardly costs anything."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.norm = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.small = nn.Conv2d(64, 64, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.large(x))
        return x * self.small(x.mean((2, 3), keepdim=True))


def test_only_large_layers_are_factored(make_view: MakeView) -> None:
    student = built(make_view(Two(), torch.zeros(2, 32, 9, 9)), 0.5)
    assert isinstance(student.get_submodule("large"), nn.Sequential)
    assert isinstance(student.get_submodule("small"), nn.Conv2d)


@pytest.mark.parametrize("share", SHARES)
def test_the_data_decide_what_is_lost(make_view: MakeView, share: float) -> None:
    """Inputs of very different size: the factors are fitted to those that matter."""
    module = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1)).eval()
    scale = torch.logspace(-2, 1, 32).view(1, 32, 1, 1)
    x, other = scale * torch.randn(40, 32, 8, 8), scale * torch.randn(10, 32, 8, 8)
    blind, fitted = (built(make_view(module, x, c), share) for c in (None, x))
    assert error(fitted, module, x) <= error(blind, module, x)
    assert error(fitted, module, other) < 0.7 * error(blind, module, other)


def test_the_structure_does_not_depend_on_the_calibration(make_view: MakeView) -> None:
    module, x = Two().eval(), torch.randn(30, 32, 9, 9)
    fitted, plain = (built(make_view(module, x, c), 0.5) for c in (x, None))
    plain.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(x), fitted(x))


def test_it_trains_traces_and_takes_other_sizes(make_view: MakeView) -> None:
    x = torch.randn(8, 32, 9, 9)
    student = built(make_view(Two(), x, x), 0.5)
    assert not student.training
    student.train()
    student(torch.randn(3, 32, 7, 12)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    fx.symbolic_trace(student)
