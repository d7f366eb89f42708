"""The families against timm's blocks with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lanac.ir import parse_op
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.ops.layers import SqueezeExcite
from lanac.targets.counting import count_params

MakeView = Callable[..., SlotView]

blocks = pytest.importorskip("timm.models._efficientnet_blocks")
byobnet = pytest.importorskip("timm.models.byobnet")
resnet = pytest.importorskip("timm.models.resnet")

SLOTS = [(16, 16, 1), (16, 24, 1), (16, 16, 2), (16, 24, 2)]


def op_for(
    make_view: MakeView, text: str, inputs: int, outputs: int, stride: int, relu: bool = False
) -> nn.Module:
    teacher: nn.Module = nn.Conv2d(inputs, outputs, 3, stride, 1)
    teacher = nn.Sequential(teacher, nn.ReLU()) if relu else teacher
    return build_op(parse_op(text), make_view(teacher, torch.zeros(2, inputs, 9, 8)), 0)


def take_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Gives timm's block random weights and statistics, and ours the same, one after the other."""
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            random = torch.rand_like(value) + 0.5 if "running_var" in name else value
            value.copy_(random if "running_var" in name else 0.3 * torch.randn_like(value))
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    for mine, own in pairs:
        assert mine.shape == own.shape
        mine.copy_(own)


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    assert count_params(ours) == count_params(theirs)
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        with torch.no_grad():
            expected, found = theirs(x.clone()), ours(x.clone())
        assert float(expected.std()) > 0.1
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def gate(ratio: float) -> object:
    return partial(blocks.SqueezeExcite, rd_ratio=ratio) if ratio else None


@pytest.mark.parametrize(("inputs", "outputs", "stride"), SLOTS)
@pytest.mark.parametrize(("e", "k", "se"), [(3, 1, 0), (3, 5, 0.04), (6, 3, 0.025)])
def test_efn(
    make_view: MakeView, inputs: int, outputs: int, stride: int, e: int, k: int, se: float
) -> None:
    ours = op_for(make_view, f"efn(e={e},k={k},se={se})", inputs, outputs, stride)
    theirs = blocks.InvertedResidual(
        inputs, outputs, k, stride, exp_ratio=e, act_layer=nn.SiLU, se_layer=gate(se)
    )
    take_weights(ours, theirs)
    assert_same(ours, theirs, torch.randn(4, inputs, 9, 8))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), SLOTS)
@pytest.mark.parametrize(("k", "se"), [(3, 0), (5, 0.04)])
def test_efn_without_expansion(
    make_view: MakeView, inputs: int, outputs: int, stride: int, k: int, se: float
) -> None:
    ours = op_for(make_view, f"efn(e=1,k={k},se={se})", inputs, outputs, stride)
    theirs = blocks.DepthwiseSeparableConv(
        inputs, outputs, k, stride, act_layer=nn.SiLU, se_layer=gate(se)
    )
    take_weights(ours, theirs)
    assert_same(ours, theirs, torch.randn(4, inputs, 9, 8))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), SLOTS)
@pytest.mark.parametrize(("e", "k", "se"), [(1, 3, 0), (1, 1, 0.04), (3, 5, 0.04), (6, 3, 0.025)])
def test_efnv2(
    make_view: MakeView, inputs: int, outputs: int, stride: int, e: int, k: int, se: float
) -> None:
    ours = op_for(make_view, f"efnv2(e={e},k={k},se={se})", inputs, outputs, stride)
    theirs = blocks.EdgeResidual(
        inputs, outputs, k, stride, exp_ratio=e, act_layer=nn.SiLU, se_layer=gate(se)
    )
    take_weights(ours, theirs)
    assert_same(ours, theirs, torch.randn(4, inputs, 9, 8))


@pytest.mark.parametrize(("channels", "squeezed"), [(8, 2), (96, 4), (10, 1)])
def test_squeeze_excite(channels: int, squeezed: int) -> None:
    ours = SqueezeExcite(channels, squeezed)
    theirs = blocks.SqueezeExcite(channels, rd_channels=squeezed, act_layer=nn.SiLU)
    take_weights(ours, theirs)
    assert_same(ours, theirs, torch.randn(4, channels, 5, 6))


def test_cb_stack_is_resnets_basic_block(make_view: MakeView) -> None:
    ours = op_for(make_view, "cb_stack(k=3,w=1)", 16, 16, 1, relu=True)
    theirs = resnet.BasicBlock(16, 16)
    take_weights(ours, theirs)
    assert_same(ours, theirs, torch.randn(4, 16, 9, 8))


def test_cb_bottle_is_resnets_bottleneck(make_view: MakeView) -> None:
    ours = op_for(make_view, "cb_bottle(k=3,w=0.25)", 32, 32, 1, relu=True)
    theirs = resnet.Bottleneck(32, 8)
    take_weights(ours, theirs)
    assert_same(ours, theirs, torch.randn(4, 32, 9, 8))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), SLOTS)
def test_repvgg(make_view: MakeView, inputs: int, outputs: int, stride: int) -> None:
    ours = op_for(make_view, "repvgg(k=3)", inputs, outputs, stride, relu=True)
    theirs = byobnet.RepVggBlock(inputs, outputs, 3, stride)
    if theirs.identity is not None:  # the order of ours: dense, pointwise, identity
        theirs._modules["identity"] = theirs._modules.pop("identity")
    take_weights(ours, theirs)
    x = torch.randn(4, inputs, 9, 8)
    assert_same(ours, theirs, x)

    convolution = folded(ours).get_submodule("body.0")
    theirs.eval().reparameterize()
    assert count_params(convolution) == count_params(theirs)
    for name in ("weight", "bias"):
        mine, own = convolution.get_parameter(name), getattr(theirs.reparam_conv, name)
        assert torch.allclose(mine, own, rtol=1e-5, atol=1e-6)
