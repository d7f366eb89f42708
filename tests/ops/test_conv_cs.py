"""What the two perturbations do, and that they are worth having."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lanac.ir import parse_op
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.conv_cs import Shift, Shuffle

MakeView = Callable[..., SlotView]


@given(groups=st.integers(1, 6), each=st.integers(1, 6), height=st.integers(1, 4))
def test_a_shuffle_is_torchs_channel_shuffle(groups: int, each: int, height: int) -> None:
    x = torch.randn(2, groups * each, height, 3)
    assert torch.equal(Shuffle(groups * each, groups)(x), nn.ChannelShuffle(groups)(x))


@given(channels=st.integers(1, 12), height=st.integers(1, 5), width=st.integers(1, 5))
def test_a_shift_moves_fifths_by_one_pixel(channels: int, height: int, width: int) -> None:
    """Against a convolution whose kernel has a single one in it."""
    x = torch.randn(2, channels, height, width)
    where = [(1, 1), (1, 2), (1, 0), (2, 1), (0, 1)]  # what a place reads: itself, its right, ...
    weight = torch.zeros(channels, 1, 3, 3)
    for part, (row, column) in enumerate(where):
        first, last = (round(edge * channels / 5) for edge in (part, part + 1))
        weight[first:last, 0, row, column] = 1
    expected = nn.functional.conv2d(x, weight, padding=1, groups=channels)
    assert torch.equal(Shift(channels)(x), expected)


def influence(module: nn.Module, channels: int) -> torch.Tensor:
    """Which input channel reaches which output channel, (out, in)."""
    x = torch.randn(1, channels, 5, 5, requires_grad=True)
    rows = []
    for output in module(x).sum((0, 2, 3)):
        (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
        rows.append(gradient.abs().sum((0, 2, 3)) > 0)
    return torch.stack(rows)


def test_a_shuffle_brings_every_channel_to_every_channel(make_view: MakeView) -> None:
    view = make_view(nn.Conv2d(16, 16, 3, 1, 1), torch.zeros(2, 16, 5, 5))
    body = build_op(parse_op("conv_cs(k=3,p=shuffle)"), view, 0).get_submodule("body")
    assert isinstance(body, nn.Sequential)
    body[2] = nn.Identity()  # the ReLU may cut a way off by chance
    assert bool(influence(body, 16).all())
    body[3] = nn.Identity()  # without the shuffle the groups stay among themselves
    assert influence(body, 16).sum() == 16 * 4


def test_a_shift_lets_a_pointwise_pair_see_its_neighbours(make_view: MakeView) -> None:
    view = make_view(nn.Conv2d(40, 40, 3, 1, 1), torch.zeros(2, 40, 5, 5))
    module = build_op(parse_op("conv_cs(k=1,p=shift)"), view, 0)
    x = torch.randn(1, 40, 5, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0, :, 2, 2].sum(), x)
    seen = (gradient.abs().sum((0, 1)) > 0).nonzero().tolist()
    assert seen == [[1, 2], [2, 1], [2, 2], [2, 3], [3, 2]]


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(3, 32, 1), (6, 8, 2), (8, 24, 4)])
def test_groups_divide_the_channels(
    make_view: MakeView, inputs: int, outputs: int, groups: int
) -> None:
    view = make_view(nn.Conv2d(inputs, outputs, 3, 1, 1), torch.zeros(2, inputs, 5, 5))
    module = build_op(parse_op("conv_cs(k=3,p=shuffle)"), view, 0)
    assert [m.groups for m in module.modules() if isinstance(m, nn.Conv2d)] == [groups] * 2
