from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import OpSpec, TensorSpec
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.channels import ChannelGroup
from lanac.ops.slim import FAMILY, WIDTHS

MakeView = Callable[..., SlotView]


class TwoConvs(nn.Module):
    """A residual block with one inner group, conv1 -> bn1 -> relu -> conv2."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.bn1.running_mean.uniform_(-0.1, 0.1)
        self.bn1.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class GatedInverted(nn.Module):
    """An inverted residual with depthwise convolution and squeeze-excite gate."""

    def __init__(self, channels: int, inner: int, squeezed: int) -> None:
        super().__init__()
        self.expand, self.bn = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, 2, 1, groups=inner)
        self.reduce, self.restore = nn.Conv2d(inner, squeezed, 1), nn.Conv2d(squeezed, inner, 1)
        self.project = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(F.silu(self.bn(self.expand(x))))
        gate = self.restore(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.project(gate * x)


# Widths -----------------------------------------------------------------------------------------


@given(st.integers(1, 600), st.sampled_from(WIDTHS))
def test_kept_channels_are_a_multiple_of_eight_or_all(size: int, width: float) -> None:
    kept = ChannelGroup(torch.arange(size), 1).kept(width)
    assert 1 <= kept <= size
    assert kept == size or kept % 8 == 0
    assert abs(kept - size * width) <= 4 or kept in (8, size)


def test_only_widths_that_differ_are_enumerated(make_view: MakeView) -> None:
    x = torch.zeros(2, 4, 5, 5)
    widths = [op.number("w") for op in FAMILY.enumerate(make_view(TwoConvs(4, 32), x))]
    assert widths == [0.75, 0.5, 0.25]  # 0.375 keeps as many as 0.5, 0.125 as 0.25
    assert list(FAMILY.enumerate(make_view(TwoConvs(4, 8), x))) == []
    assert list(FAMILY.enumerate(make_view(nn.Conv2d(4, 4, 3), x))) == []


# Weights ----------------------------------------------------------------------------------------


def slimmed(view: SlotView, width: float) -> nn.Module:
    return build_op(OpSpec.of("slim", w=width), view, seed=0)


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_kept_channels_keep_the_teachers_weights(make_view: MakeView, calibrated: bool) -> None:
    module = TwoConvs(4, 32)
    important = torch.arange(0, 32, 2)  # every second channel is read ten times as strongly
    with torch.no_grad():
        module.conv2.weight[:, important] *= 10
    x = torch.randn(16, 4, 5, 5)
    student = slimmed(make_view(module, x, x if calibrated else None), 0.5)
    for name, keep in (("conv1", 0), ("conv2", 1))[: 1 if calibrated else 2]:
        expected = module.get_submodule(name).weight.index_select(keep, important)
        assert torch.equal(student.get_parameter(f"{name}.weight"), expected)
    assert torch.equal(student.get_parameter("conv1.bias"), module.conv1.bias[important])
    for name in ("weight", "bias", "running_mean", "running_var"):
        ours, own = getattr(student.get_submodule("bn1"), name), getattr(module.bn1, name)
        assert torch.equal(ours, own[important])
    if not calibrated:  # else fitted, as all that reads the kept channels
        assert torch.equal(student.get_parameter("conv2.bias"), module.conv2.bias)
    assert student.get_submodule("conv1").out_channels == 16
    assert student.get_submodule("conv2").in_channels == 16
    assert student.get_submodule("bn1").num_features == 16


def test_the_teacher_is_not_changed(make_view: MakeView) -> None:
    module, x = TwoConvs(4, 32), torch.randn(2, 4, 5, 5)
    view = make_view(module, x, x)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    student = slimmed(view, 0.25)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert view.teacher.get_submodule("conv1") is module.conv1


def test_channels_of_great_energy_are_kept(make_view: MakeView) -> None:
    """Weights alone would choose others: what counts is what the data bring through."""
    module = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.ReLU(), nn.Conv2d(16, 4, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(16)[:, :, None, None])
        module[2].weight.fill_(0.1)
        module[2].weight[:, :8] = 0.2
    x = torch.rand(8, 16, 5, 5)
    x[:, :8] *= 0.01
    assert kept_rows(slimmed(make_view(module, x, x), 0.5)) == list(range(8, 16))
    assert kept_rows(slimmed(make_view(module, x), 0.5)) == list(range(8))


def kept_rows(student: nn.Module) -> list[int]:
    weight: Tensor = student.get_parameter("0.weight")
    return weight[:, :, 0, 0].argmax(1).tolist()


def test_dead_channels_are_dropped_and_change_nothing(make_view: MakeView) -> None:
    """Integers in float: sums are exact in any order, so the functions agree exactly.

    Without the batch norm behind the fitted layer: that gets other statistics, which round.
    """
    module = TwoConvs(4, 32).eval()
    module.bn2 = nn.Identity()
    dead = torch.randperm(32, generator=torch.Generator().manual_seed(3))[:16]
    with torch.no_grad():
        for layer in (module.conv1, module.conv2):
            layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape))
            layer.bias.copy_(torch.randint(-3, 4, layer.bias.shape))
        module.bn1.running_mean.zero_()
        module.bn1.running_var.fill_(1 - module.bn1.eps)
        module.bn1.weight[dead] = 0
        module.bn1.bias[dead] = -1
    x = torch.randint(-3, 4, (6, 4, 5, 5)).float()
    student = slimmed(make_view(module, x, x), 0.5)
    with torch.no_grad():
        assert module(x).std() > 1
        assert torch.equal(student(x), module(x))


def test_dead_channels_of_a_gated_depthwise_block(make_view: MakeView) -> None:
    module = GatedInverted(8, 32, 16).eval()
    with torch.no_grad():
        for path in ("project", "reduce"):  # nobody reads the first sixteen
            module.get_submodule(path).weight[:, :16] = 0
        module.restore.weight[:, 8:] = 0
    x = torch.randn(6, 8, 6, 6)
    student = slimmed(make_view(module, x, x), 0.5)
    shapes = {name: tuple(value.shape) for name, value in student.named_parameters()}
    assert shapes == {
        "expand.weight": (16, 8, 1, 1),
        "bn.weight": (16,),
        "bn.bias": (16,),
        "depthwise.weight": (16, 1, 3, 3),
        "depthwise.bias": (16,),
        "reduce.weight": (8, 16, 1, 1),
        "reduce.bias": (8,),
        "restore.weight": (16, 8, 1, 1),
        "restore.bias": (16,),
        "project.weight": (8, 16, 1, 1),
        "project.bias": (8,),
    }
    depthwise = student.get_submodule("depthwise")
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(student(x), module(x), atol=1e-5)


def test_a_slimmed_head(make_view: MakeView) -> None:
    head = nn.Sequential(
        nn.Conv2d(4, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    with torch.no_grad():
        head[4].weight[:, ::2] = 0
    x = torch.randn(6, 4, 5, 5)
    student = slimmed(make_view(head, x, x), 0.5)
    assert student.get_submodule("4").in_features == 8
    with torch.no_grad():
        assert torch.allclose(student(x), head(x), atol=1e-6)


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_slimmed_op_trains_and_traces(make_view: MakeView, calibrated: bool) -> None:
    x = torch.randn(4, 8, 6, 6)
    student = slimmed(make_view(GatedInverted(8, 32, 16), x, x if calibrated else None), 0.25)
    assert not student.training
    student.train()
    student(x).square().mean().backward()
    assert all(value.grad is not None for value in student.parameters())
    fx.symbolic_trace(student)
    assert TensorSpec.of(student(torch.randn(3, 8, 6, 6))).shape == (3, 8, 3, 3)


# Least squares ----------------------------------------------------------------------------------


def error(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = teacher(x)
        return float((student(x) - wanted).square().sum() / wanted.square().sum())


class Plain(nn.Module):
    """Two convolutions, the second one last: what least squares minimises is the op's own error."""

    def __init__(self, channels: int, inner: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, inner, kernel, padding=kernel // 2)
        self.two = nn.Conv2d(inner, channels, kernel, stride, kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.silu(self.one(x)))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 6),
    inner=st.integers(9, 40),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    width=st.sampled_from(WIDTHS),
)
def test_fitting_never_hurts_on_the_calibration_samples(
    make_view: MakeView,
    channels: int,
    inner: int,
    kernel: int,
    stride: int,
    bias: bool,
    width: float,
) -> None:
    module = Plain(channels, inner, kernel, stride, bias).eval()
    x = torch.randn(24, channels, 6, 7)
    view = make_view(module, x, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lanac.ops.slim.refit", lambda *_, **__: None)
        before = error(slimmed(view, width), module, x)
    assert error(slimmed(view, width), module, x) <= before + 1e-9


def test_fitting_helps_on_samples_that_it_has_not_seen(make_view: MakeView) -> None:
    module = Plain(8, 32, 3, 1, True).eval()
    x, other = torch.randn(64, 8, 6, 6), torch.randn(64, 8, 6, 6)
    view = make_view(module, x, x)
    fitted = slimmed(view, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lanac.ops.slim.refit", lambda *_, **__: None)
        inherited = slimmed(view, 0.5)
    assert error(fitted, module, other) < 0.7 * error(inherited, module, other)


def test_an_op_is_the_same_whenever_it_is_built(make_view: MakeView) -> None:
    module, x = TwoConvs(4, 32), torch.randn(16, 4, 5, 5)
    first, second = (slimmed(make_view(module, x, x), 0.5).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_structure_does_not_depend_on_the_calibration(make_view: MakeView) -> None:
    """Costs are measured before there are samples, and weights are loaded without."""
    module, x = GatedInverted(8, 32, 16), torch.randn(16, 8, 6, 6)
    fitted, plain = (slimmed(make_view(module, x, c), 0.5) for c in (x, None))
    plain.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(x), fitted(x))
