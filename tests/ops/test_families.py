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
    *(f"efnv2(e={e},k={k},se={se})" for e, k, se in [(1, 1, 0.04), (1, 3, 0), (3, 5, 0.025), (6, 3, 0)]),
    *(f"cb_stack(k={k},w={w})" for k, w in [(1, 3), (3, 0.0625), (5, 0.5), (7, 0.2)]),
    *(f"cb_bottle(k={k},w={w})" for k, w in [(1, 0.0625), (3, 0.5), (5, 1), (7, 2)]),
    *(f"cb_res(k={k})" for k in (1, 3, 5, 7)),
    "repvgg(k=3)",
    *(f"conv_cs(k={k},p={p})" for k in (1, 3, 5, 7) for p in ("shuffle", "shift")),
]  # fmt: skip
"""Every family with its least and its largest options."""

FAMILY_NAMES = sorted({parse_op(text).family for text in OPS})

SLOTS = [
    # inputs, outputs, size, stride
    (3, 8, (112, 112), 2),
    (8, 8, (112, 112), 1),
    (8, 12, (57, 56), 2),
    (12, 12, (56, 28), 1),
    (16, 24, (28, 28), 1),
    (24, 24, (28, 28), 1),
    (24, 20, (28, 27), 2),
    (7, 13, (14, 14), 1),
    (10, 10, (15, 14), 2),
    (40, 16, (14, 14), 4),
    (32, 32, (7, 7), 1),
    (32, 48, (7, 9), 2),
    (48, 48, (1, 1), 1),
]
"""Slots as networks have them, from the stem down."""


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

    module.train()
    module(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    "slot", SLOTS, ids=lambda s: f"{s[0]}-{s[1]}-{s[2][0]}x{s[2][1]}-stride{s[3]}"
)
def test_every_family_fits_every_feature_map(
    make_view: MakeView, slot: tuple[int, int, tuple[int, int], int]
) -> None:
    """Built and checked against the slot's shapes for another batch, with gradients everywhere."""
    inputs, outputs, size, stride = slot
    view = make_view(Conv(inputs, outputs, stride, False), torch.zeros(2, inputs, *size))
    assert view.stride == stride
    x = torch.randn(3, inputs, *size)
    for name in FAMILY_NAMES:
        ops = list(FAMILIES.get(name).enumerate(view))
        for op in dict.fromkeys((ops[0], ops[len(ops) // 2])):
            module = build_op(op, view, seed=0).train()
            y = module(x)
            assert TensorSpec.of(y) == view.output_spec.with_batch(3), op
            y.square().mean().backward()
            assert all(value.grad is not None for value in module.parameters()), op


RESIDUAL = [text for text in OPS if parse_op(text).family != "repvgg"]
"""RepVGG's residual has a batch norm of its own."""


def test_a_residual_is_added_only_where_shapes_agree(make_view: MakeView) -> None:
    for outputs, stride, expected in ((4, 1, True), (5, 1, False), (4, 2, False)):
        view = make_view(Conv(4, outputs, stride, False), torch.zeros(2, 4, 6, 6))
        for text in RESIDUAL:
            module = build_op(parse_op(text), view, 0)
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.zero_()
                x = torch.randn(2, 4, 6, 6)
                y = module(x)
            assert torch.equal(y, x if expected else torch.zeros_like(y))


GRIDS = {
    "efn": (27, "efn(e=1,k=1,se=0)", "efn(e=6,k=5,se=0.025)"),
    "efnv2": (27, "efnv2(e=1,k=1,se=0)", "efnv2(e=6,k=5,se=0.025)"),
    "cb_stack": (40, "cb_stack(k=1,w=0.0625)", "cb_stack(k=7,w=4)"),
    "cb_bottle": (40, "cb_bottle(k=1,w=0.0625)", "cb_bottle(k=7,w=4)"),
    "cb_res": (4, "cb_res(k=1)", "cb_res(k=7)"),
    "repvgg": (1, "repvgg(k=3)", "repvgg(k=3)"),
    "conv_cs": (8, "conv_cs(k=1,p=shuffle)", "conv_cs(k=7,p=shift)"),
}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_grids_are_the_papers(make_view: MakeView, family: str) -> None:
    view = make_view(Conv(4, 4, 1, False), torch.zeros(2, 4, 6, 6))
    ops = [str(op) for op in FAMILIES.get(family).enumerate(view)]
    count, first, last = GRIDS[family]
    assert len(ops) == len(set(ops)) == count
    assert (ops[0], ops[-1]) == (first, last)


def layers_of(view: SlotView, text: str) -> list[str]:
    """The op's layers in order, convolutions as `in->out/stride, kernel, groups`."""
    found = []
    for layer in build_op(parse_op(text), view, 0).modules():
        if isinstance(layer, nn.Conv2d):
            found.append(
                f"{layer.in_channels}->{layer.out_channels}/{layer.stride[0]} "
                f"k{layer.kernel_size[0]} g{layer.groups}"
            )
        elif not list(layer.children()):
            found.append(type(layer).__name__)
    return found


LAYERS = {
    "efnv2(e=3,k=5,se=0.04)":  # 36 * 0.04 = 1.44
        "12->36/2 k5 g1, BatchNorm2d, SiLU, "
        "36->1/1 k1 g1, SiLU, 1->36/1 k1 g1, Sigmoid, "
        "36->8/1 k1 g1, BatchNorm2d, ReLU",
    "efnv2(e=1,k=3,se=0)":
        "12->12/2 k3 g1, BatchNorm2d, SiLU, 12->8/1 k1 g1, BatchNorm2d, ReLU",
    "cb_stack(k=7,w=0.25)":
        "12->3/2 k7 g1, BatchNorm2d, ReLU, 3->8/1 k7 g1, BatchNorm2d, ReLU",
    "cb_bottle(k=3,w=2)":
        "12->24/1 k1 g1, BatchNorm2d, ReLU, 24->24/2 k3 g1, BatchNorm2d, ReLU, "
        "24->8/1 k1 g1, BatchNorm2d, ReLU",
    "cb_res(k=5)":
        "12->8/2 k5 g1, BatchNorm2d, ReLU",
    "repvgg(k=3)":
        "12->8/2 k3 g1, BatchNorm2d, 12->8/2 k1 g1, BatchNorm2d, ReLU",
    "conv_cs(k=3,p=shuffle)":
        "12->12/2 k3 g4, BatchNorm2d, ReLU, Shuffle, 12->8/1 k3 g4, BatchNorm2d, ReLU",
    "conv_cs(k=1,p=shift)":
        "12->12/2 k1 g1, BatchNorm2d, ReLU, Shift, 12->8/1 k1 g1, BatchNorm2d, ReLU",
}  # fmt: skip


@pytest.mark.parametrize("text", LAYERS)
def test_the_layers_of_a_family(make_view: MakeView, text: str) -> None:
    view = make_view(Conv(12, 8, 2, True), torch.zeros(2, 12, 6, 6))
    assert ", ".join(layers_of(view, text)) == LAYERS[text]


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
        for family in FAMILY_NAMES:
            assert list(FAMILIES.get(family).enumerate(view)) == []


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
    assert {*FAMILY_NAMES, "identity", "slim", "teacher"} <= {*FAMILIES.names()}
    for family in FAMILIES:
        assert family.equation.startswith("y = ")
        assert parse_op(str(OpSpec(family.name))) == OpSpec(family.name)
