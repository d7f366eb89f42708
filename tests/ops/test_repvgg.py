"""RepVGG trains with branches and runs as one convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lanac.ir import TensorSpec, parse_op
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.ops.repvgg import Branches

MakeView = Callable[..., SlotView]


def view_for(
    make_view: MakeView, inputs: int, outputs: int, stride: int, size: tuple[int, int] = (9, 8)
) -> SlotView:
    return make_view(nn.Conv2d(inputs, outputs, 3, stride, 1), torch.zeros(2, inputs, *size))


def set_state(module: nn.Module, exact: bool) -> None:
    """Weights and statistics of a trained op; integers where `exact`, so that sums have no error."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            if exact:
                part.running_mean.copy_(torch.randint(-3, 4, part.running_mean.shape))
                part.running_var.fill_(4)
                part.eps = 0.0
                part.weight.data.copy_(2 * torch.randint(-3, 4, part.weight.shape))
                part.bias.data.copy_(torch.randint(-3, 4, part.bias.shape))
            else:
                part.running_mean.normal_()
                part.running_var.uniform_(0.2, 3)
                part.weight.data.uniform_(0.5, 2)
                part.bias.data.normal_()
        elif isinstance(part, nn.Conv2d) and exact:
            part.weight.data.copy_(torch.randint(-3, 4, part.weight.shape))


@settings(max_examples=30)
@given(
    inputs=st.integers(1, 7),
    outputs=st.integers(1, 7),
    stride=st.sampled_from([1, 2, 4]),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    kernel=st.sampled_from([1, 3, 5]),
    exact=st.booleans(),
)
def test_one_convolution_computes_what_the_branches_compute(
    make_view: MakeView,
    inputs: int,
    outputs: int,
    stride: int,
    size: tuple[int, int],
    kernel: int,
    exact: bool,
) -> None:
    view = view_for(make_view, inputs, outputs, stride, size)
    module = build_op(parse_op(f"repvgg(k={kernel})"), view, 0)
    set_state(module, exact)
    result = folded(module)
    assert [type(part) for part in result.modules() if not list(part.children())] == [nn.Conv2d]
    x = torch.randint(-3, 4, (3, inputs, *size)).float()
    with torch.no_grad():
        expected, found = module(x), result(x)
        assert TensorSpec.of(found) == view.output_spec.with_batch(3)
        if exact:
            assert torch.equal(found, expected)
        else:
            assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
            assert torch.allclose(
                folded(module.double())(x.double()), module(x.double()), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize(
    ("outputs", "stride", "branches"), [(4, 1, 3), (4, 2, 2), (6, 1, 2), (6, 2, 2)]
)
def test_the_identity_branch_is_there_where_the_shape_stays(
    make_view: MakeView, outputs: int, stride: int, branches: int
) -> None:
    module = build_op(parse_op("repvgg(k=3)"), view_for(make_view, 4, outputs, stride), 0)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in module.modules()) == branches


def test_folding_takes_what_training_has_made(make_view: MakeView) -> None:
    """The statistics too; and the op trains on after it was folded."""
    module = build_op(parse_op("repvgg(k=3)"), view_for(make_view, 4, 4, 1), 0)
    first = folded(module)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = torch.randn(8, 4, 9, 8) + 1
    for _ in range(3):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    assert module.training
    second = folded(module)
    with torch.no_grad():
        expected = module.eval()(x)
        assert torch.allclose(second(x), expected, atol=1e-5)
        assert not torch.allclose(first(x), expected, atol=1e-1)


def test_a_relu_stays_behind_the_convolution(make_view: MakeView) -> None:
    teacher = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU())
    module = build_op(parse_op("repvgg(k=3)"), make_view(teacher, torch.zeros(2, 4, 6, 6)), 0)
    leaves = [type(part) for part in folded(module).modules() if not list(part.children())]
    assert leaves == [nn.Conv2d, nn.ReLU]


def test_precision_and_device_stay() -> None:
    result = Branches(4, 6, 3, 2, skip=False).double().fold()
    assert {value.dtype for value in result.state_dict().values()} == {torch.float64}
