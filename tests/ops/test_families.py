from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import IDENTITY, TEACHER, OpSpec, TensorSpec, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.build import build_op
from lanac.ops.layers import aligned

MakeView = Callable[..., SlotView]


class Conv(nn.Module):
    """One convolution as a teacher's op; ReLU where asked for."""

    def __init__(self, inputs: int, outputs: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(x) if self.relu else x


OPS = [
    *(f"efn(e={e},k={k},se={se})" for e, k, se in [(1, 1, 0), (1, 3, 0.04), (3, 5, 0), (6, 3, 0.025)]),
    *(f"cb_bottle(k={k},w={w})" for k, w in [(1, 0.0625), (3, 0.5), (5, 1), (7, 2)]),
]  # fmt: skip


@settings(max_examples=40)
@given(
    text=st.sampled_from(OPS),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    stride=st.sampled_from([1, 2, 4]),
    relu=st.booleans(),
)
def test_a_candidate_maps_what_the_teacher_maps_trains_and_traces(
    make_view: MakeView,
    text: str,
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    stride: int,
    relu: bool,
) -> None:
    view = make_view(Conv(inputs, outputs, stride, relu), torch.zeros(2, inputs, *size))
    op = parse_op(text)
    assert op in list(FAMILIES.get(op.family).enumerate(view))
    module = build_op(op, view, seed=0)
    assert not module.training

    x = torch.randn(3, inputs, *size)
    y = module(x)
    assert TensorSpec.of(y) == view.output_spec.with_batch(3)
    assert torch.equal(fx.symbolic_trace(module)(x), y)
    assert not relu or bool((y >= 0).all())

    y.square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_residual_is_added_only_where_shapes_agree(make_view: MakeView) -> None:
    for outputs, stride, expected in ((4, 1, True), (5, 1, False), (4, 2, False)):
        view = make_view(Conv(4, outputs, stride, False), torch.zeros(2, 4, 6, 6))
        for text in ("efn(e=1,k=3,se=0)", "cb_bottle(k=3,w=0.5)"):
            module = build_op(parse_op(text), view, 0)
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.zero_()
                x = torch.randn(2, 4, 6, 6)
                y = module(x)
            assert torch.equal(y, x if expected else torch.zeros_like(y))


def test_the_grids_are_the_papers(make_view: MakeView) -> None:
    view = make_view(Conv(4, 4, 1, False), torch.zeros(2, 4, 6, 6))
    efn = [str(op) for op in FAMILIES.get("efn").enumerate(view)]
    assert len(efn) == len(set(efn)) == 27
    assert (efn[0], efn[-1]) == ("efn(e=1,k=1,se=0)", "efn(e=6,k=5,se=0.025)")
    bottle = [str(op) for op in FAMILIES.get("cb_bottle").enumerate(view)]
    assert len(bottle) == len(set(bottle)) == 40
    assert (bottle[0], bottle[-1]) == ("cb_bottle(k=1,w=0.0625)", "cb_bottle(k=7,w=4)")


def test_the_layers_of_an_inverted_residual(make_view: MakeView) -> None:
    view = make_view(Conv(10, 6, 2, True), torch.zeros(2, 10, 6, 6))
    module = build_op(parse_op("efn(e=3,k=5,se=0.04)"), view, 0)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(m.in_channels, m.out_channels, m.kernel_size[0], m.groups) for m in convolutions]
    # Squeezed to a share of the expanded width: 30 * 0.04 = 1.2.
    assert shapes == [(10, 30, 1, 1), (30, 30, 5, 30), (30, 1, 1, 1), (1, 30, 1, 1), (30, 6, 1, 1)]
    assert [m.stride[0] for m in convolutions] == [1, 2, 1, 1, 1]


def test_what_is_no_feature_map_gets_no_convolution(make_view: MakeView) -> None:
    linear = make_view(nn.Linear(4, 4), torch.zeros(2, 4))
    head = make_view(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.zeros(2, 4, 6, 6))
    growing = make_view(nn.Upsample(scale_factor=2), torch.zeros(2, 4, 6, 6))
    cropping = make_view(nn.Conv2d(4, 4, 3), torch.zeros(2, 4, 6, 6))
    for view in (linear, head, growing, cropping):
        assert view.stride is None
        assert list(FAMILIES.get("efn").enumerate(view)) == []
        assert list(FAMILIES.get("cb_bottle").enumerate(view)) == []


@pytest.mark.parametrize(("stride", "size"), [(1, (6, 7)), (2, (6, 7)), (4, (9, 6))])
def test_the_stride_of_a_slot(make_view: MakeView, stride: int, size: tuple[int, int]) -> None:
    view = make_view(nn.Conv2d(3, 4, 3, stride, 1), torch.zeros(2, 3, *size))
    assert view.stride == stride


def test_strides_that_differ_by_dimension_are_none(make_view: MakeView) -> None:
    assert make_view(nn.Conv2d(3, 4, 3, (1, 2), 1), torch.zeros(2, 3, 8, 8)).stride is None


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), True),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)), False),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU()), False),
        (Conv(3, 3, 1, True), True),
        (Conv(3, 3, 1, False), False),
    ],
)
def test_whether_a_slot_ends_in_relu(
    make_view: MakeView, module: nn.Module, expected: bool
) -> None:
    assert make_view(module, torch.zeros(2, 3, 4, 4)).ends_in_relu is expected


def test_identity_fits_where_the_shape_stays(make_view: MakeView) -> None:
    family = FAMILIES.get("identity")
    same = make_view(nn.Conv2d(3, 3, 1), torch.zeros(2, 3, 4, 4))
    other = make_view(nn.Conv2d(3, 4, 1), torch.zeros(2, 3, 4, 4))
    assert list(family.enumerate(same)) == [IDENTITY]
    assert list(family.enumerate(other)) == []
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(build_op(IDENTITY, same, 0)(x), x)


def test_the_teachers_op_is_a_copy(make_view: MakeView) -> None:
    teacher = nn.Conv2d(3, 4, 1)
    view = make_view(nn.Sequential(teacher), torch.zeros(2, 3, 4, 4))
    assert list(FAMILIES.get("teacher").enumerate(view)) == [TEACHER]
    module = build_op(TEACHER, view, 0)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(module(x), teacher(x))
    assert next(module.parameters()) is not teacher.weight


@given(st.floats(0, 4000))
def test_aligned_is_the_nearest_multiple_of_eight(channels: float) -> None:
    found = aligned(channels)
    assert found % 8 == 0 and found >= 8
    assert abs(found - channels) <= 4 or found == 8


def test_every_family_is_documented_by_an_equation() -> None:
    assert FAMILIES.names() == (
        "cb_bottle", "efn", "identity", "kernel", "lowrank", "relu", "shrink_se", "slim", "teacher",
    )  # fmt: skip
    for family in FAMILIES:
        assert family.equation.startswith("y = ")
        assert parse_op(str(OpSpec(family.name))) == OpSpec(family.name)
