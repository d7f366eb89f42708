from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lanac.ir import OpSpec
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.kernel import FAMILY, cropped

MakeView = Callable[..., SlotView]


def built(view: SlotView, size: int) -> nn.Module:
    return build_op(OpSpec.of("kernel", k=size), view, seed=0)


def depthwise(kernel: Any, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(6, 6, kernel, groups=6, **options), nn.ReLU(), nn.Conv2d(6, 4, 1)
    )


def keep_centre(layer: Any, size: int) -> None:
    """Sets all taps to zero but the inner ones."""
    with torch.no_grad():
        mask = torch.zeros_like(layer.weight)
        edges = [max(0, (kernel - size) // 2) for kernel in layer.kernel_size]
        high, wide = layer.kernel_size
        mask[:, :, edges[0] : high - edges[0], edges[1] : wide - edges[1]] = 1
        layer.weight.mul_(mask)


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.sampled_from([5, 7, (3, 7), (5, 9)]),
    size=st.sampled_from([3, 5]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    calibrated=st.booleans(),
)
def test_outer_taps_of_zero_are_not_missed(
    make_view: MakeView, kernel: Any, size: int, stride: int, dilation: int, calibrated: bool
) -> None:
    pair = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = tuple(k // 2 * dilation for k in pair)
    module = depthwise(kernel, stride=stride, dilation=dilation, padding=padding).eval()
    keep_centre(module[0], size)
    x = torch.randn(16, 6, 12, 11)
    view = make_view(module, x, x if calibrated else None)
    if max(pair) <= size:
        assert OpSpec.of("kernel", k=size) not in FAMILY.enumerate(view)
        return
    student = built(view, size)
    assert student.get_submodule("0").kernel_size == tuple(min(k, size) for k in pair)
    other = torch.randn(3, 6, 9, 14)
    with torch.no_grad():
        assert torch.allclose(student(other), module(other), atol=1e-4)


def test_fitting_mends_what_the_outer_taps_did(make_view: MakeView) -> None:
    """Neighbouring places are alike in images: the inner taps can do most of the outer ones' work."""
    module = nn.Sequential(nn.Conv2d(6, 6, 5, padding=2, groups=6)).eval()
    x, other = (nn.functional.avg_pool2d(torch.randn(16, 6, 20, 20), 7, 1) for _ in range(2))
    with torch.no_grad():
        module[0].weight.abs_()
        blind, fitted = (built(make_view(module, x, c), 3) for c in (None, x))
        before, after = ((s(other) - module(other)).square().mean() for s in (blind, fitted))
    assert after < 0.25 * before


@pytest.mark.parametrize("size", [8, 9])
def test_padding_that_depends_on_the_size(size: int) -> None:
    from timm.layers import Conv2dSame

    layer = Conv2dSame(6, 6, 5, 2, groups=6)
    keep_centre(layer, 3)
    x = torch.randn(4, 6, size, size)
    student = cropped(layer, 3)
    with torch.no_grad():
        assert torch.allclose(student(x), layer(x), atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 5, padding=2),
        nn.Conv2d(6, 6, 5, groups=6),  # the border would move
        nn.Conv2d(6, 6, 4, padding=2, groups=6),  # no centre
    ],
)
def test_what_has_no_smaller_kernel_has_no_op(make_view: MakeView, layer: nn.Module) -> None:
    view = make_view(nn.Sequential(layer), torch.zeros(2, 6, 9, 9))
    assert list(FAMILY.enumerate(view)) == []


def test_the_grid(make_view: MakeView) -> None:
    def sizes(kernel: int) -> list[float]:
        view = make_view(depthwise(kernel, padding=kernel // 2), torch.zeros(2, 6, 9, 9))
        return [op.number("k") for op in FAMILY.enumerate(view)]

    assert (sizes(3), sizes(5), sizes(7)) == ([], [3], [5, 3])


def test_it_trains_and_the_teacher_stays(make_view: MakeView) -> None:
    module, x = depthwise(5, padding=2), torch.randn(8, 6, 9, 9)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    student = built(make_view(module, x, x), 3).train()
    student(torch.randn(2, 6, 7, 8)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
