from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import OpSpec, TensorSpec, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.attention import FULL_TOKENS, key_pooling, patch_size
from lanac.ops.build import build_op
from lanac.targets.counting import peak_activation_bytes

MakeView = Callable[..., SlotView]

ATTENTION = ("vit", "bot", "lambda")
OPS = ["vit(d=1,w=32,h=4)", "vit(d=2,w=64,h=16)"]
OPS += ["bot(e=0.25)", "bot(e=3)", "lambda(e=0.5)", "lambda(e=2)"]


def fitting(text: str, view: SlotView) -> nn.Module:
    """The op in that slot; the test is skipped where the op's family does not fit."""
    op = parse_op(text)
    if op not in list(FAMILIES.get(op.family).enumerate(view)):
        assert view.kind in ("tokens", "grid") and op.family != "vit"
        pytest.skip("convolutional bottlenecks are for maps")
    return build_op(op, view, seed=0)


def of_map(inputs: int, outputs: int, stride: int, *size: int) -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1), torch.zeros(2, inputs, *size)


@pytest.mark.parametrize("text", OPS)
def test_a_candidate_maps_what_the_teacher_maps_trains_and_traces(
    slot: SlotView, text: str
) -> None:
    module = fitting(text, slot)
    x = torch.randn(3, *slot.input_spec.sample_shape)
    y = module(x)
    assert TensorSpec.of(y) == slot.output_spec.with_batch(3)
    assert torch.equal(fx.symbolic_trace(module)(x), y)
    assert not slot.ends_in_relu or bool((y >= 0).all())

    # Nothing of one sample reaches another.
    changed = torch.cat([x[:1], torch.randn_like(x[1:])])
    torch.testing.assert_close(module(changed)[0], y[0])
    torch.testing.assert_close(module(x[:1])[0], y[0], rtol=1e-4, atol=1e-5)

    y.square().mean().backward()
    alone = math.prod(slot.output_spec.sample_shape[1:]) == 1  # one key: its share is always one
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert alone or bool(parameter.grad.any()), name


def test_the_grids_are_the_papers(slot: SlotView) -> None:
    found = {name: [str(op) for op in FAMILIES.get(name).enumerate(slot)] for name in ATTENTION}
    bottlenecks = [f"(e={e})" for e in (0.25, 0.5, 1, 2, 3, 4)] if slot.kind == "map" else []
    assert found["bot"] == [f"bot{options}" for options in bottlenecks]
    assert found["lambda"] == [f"lambda{options}" for options in bottlenecks]
    assert found["vit"] == [
        f"vit(d={d},w={w},h={h})"
        for d in (1, 2)
        for w in (32, 64, 128, 256, 512, 1024)
        for h in (4, 8, 16)
    ]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(4, 4), (4,)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (4, 6, 6)),
        (nn.Upsample(scale_factor=2), (4, 6, 6)),
        (nn.Conv2d(4, 4, 3), (4, 6, 6)),
        (nn.Conv1d(4, 4, 1), (4, 6)),
        (nn.Linear(4, 4), (2049, 4)),
    ],
)
def test_where_attention_does_not_fit(
    make_view: MakeView, module: nn.Module, shape: tuple[int, ...]
) -> None:
    view = make_view(module, torch.zeros(2, *shape))
    assert [op for name in ATTENTION for op in FAMILIES.get(name).enumerate(view)] == []


@pytest.mark.parametrize("text", OPS)
def test_a_residual_is_added_only_where_shapes_agree(slot: SlotView, text: str) -> None:
    module = fitting(text, slot)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        x = torch.rand(2, *slot.input_spec.sample_shape)
        y = module(x)
    assert torch.equal(y, x if slot.slot.keeps_shape else torch.zeros_like(y))


@pytest.mark.parametrize("text", OPS)
@pytest.mark.parametrize(("stride", "size"), [(1, (12, 12)), (2, (70, 70)), (1, (34, 33))])
def test_an_op_takes_maps_of_any_resolution(
    make_view: MakeView, text: str, stride: int, size: tuple[int, int]
) -> None:
    module = fitting(text, make_view(*of_map(8, 6, stride, *size)))
    for height, width in ((9, 17), (41, 40), (1, 3)):
        y = module(torch.randn(2, 8, height, width))
        assert y.shape == (2, 6, -(-height // stride), -(-width // stride))


def test_any_number_of_tokens_in_any_order(make_view: MakeView) -> None:
    module = fitting("vit(d=2,w=32,h=8)", make_view(nn.Linear(12, 20), torch.zeros(2, 17, 12)))
    x, order = torch.randn(2, 23, 12), torch.randperm(23)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


@pytest.mark.parametrize("text", OPS)
@pytest.mark.parametrize("size", [(7, 7), (34, 34)])
def test_every_position_sees_all_others(
    make_view: MakeView, text: str, size: tuple[int, int]
) -> None:
    module = fitting(text, make_view(*of_map(8, 8, 1, *size)))
    x = torch.randn(1, 8, *size, requires_grad=True)
    module(x)[0, :, 0, 0].square().sum().backward()
    assert x.grad is not None
    # A ReLU may be shut for all channels of a position here and there.
    assert x.grad.abs().sum(1).gt(0).float().mean() > 0.95


class WithPositions(nn.Module):
    """ViT's first layer: what enters it does not say yet where the tokens stand."""

    def __init__(self, tokens: int, width: int, *, last: bool = False) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, tokens, width))
        self.last, self.mix = last, nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x) + self.table if self.last else self.mix(x + self.table)


@pytest.mark.parametrize("last", [False, True])
def test_positions_that_the_teachers_op_adds_are_inherited(make_view: MakeView, last: bool) -> None:
    teacher = WithPositions(9, 12, last=last)
    module = fitting(OPS[0], make_view(teacher, torch.zeros(2, 9, 12)))
    x, order = torch.randn(2, 9, 12), torch.randperm(9)
    same = torch.allclose(module(x[:, order]), module(x)[:, order], atol=1e-5)
    assert same == last  # added behind the layer, positions are not what this op reads
    if last:
        return
    table = module.get_parameter("0.table")
    assert torch.equal(table, teacher.table) and table is not teacher.table
    without = fitting(OPS[0], make_view(nn.Linear(12, 12), torch.zeros(2, 9, 12)))
    without.load_state_dict(module.get_submodule("1").state_dict())
    assert torch.equal(module(x), without(x + teacher.table))
    module(x).sum().backward()
    assert table.grad is not None and bool(table.grad.any())


def test_a_map_with_channels_last_is_turned(make_view: MakeView) -> None:
    text = "vit(d=1,w=32,h=4)"
    first = fitting(text, make_view(*of_map(6, 9, 1, 34, 33)))
    last = fitting(text, make_view(nn.Linear(6, 9), torch.zeros(2, 34, 33, 6)))
    last.load_state_dict(dict(zip(last.state_dict(), first.state_dict().values(), strict=True)))
    x = torch.randn(2, 6, 34, 33)
    torch.testing.assert_close(last(x.permute(0, 2, 3, 1)), first(x).permute(0, 2, 3, 1))


def test_a_width_that_the_heads_do_not_divide_is_rounded(make_view: MakeView) -> None:
    view = make_view(*of_map(6, 6, 1, 5, 5))
    module = build_op(parse_op("vit(d=1,w=42,h=16)"), view, 0)
    assert {m.normalized_shape for m in module.modules() if isinstance(m, nn.LayerNorm)} == {(48,)}
    for text, inner in (("bot(e=0.25)", 8), ("bot(e=3)", 16), ("lambda(e=4)", 24)):
        module = build_op(parse_op(text), view, 0)
        assert next(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)) == inner


sides = st.integers(1, 600)


@given(sides, sides)
def test_tokens_are_joined_to_the_smallest_patches_that_do(height: int, width: int) -> None:
    patch = patch_size(height, width)
    tokens = [-(-height // side) * -(-width // side) for side in (patch, patch - 1) if side]
    assert tokens[0] <= FULL_TOKENS
    assert all(more > FULL_TOKENS for more in tokens[1:])


@given(sides, sides)
def test_keys_are_joined_where_there_would_be_too_many_scores(height: int, width: int) -> None:
    positions, side = height * width, key_pooling(height, width)
    keys = [-(-height // pooled) * -(-width // pooled) for pooled in (side, side - 1) if pooled]
    assert keys[0] <= 49 or positions * keys[0] <= FULL_TOKENS**2
    assert all(more > 49 and positions * more > FULL_TOKENS**2 for more in keys[1:])
    assert (side == 1) == (positions <= FULL_TOKENS)


@pytest.mark.parametrize("text", ["bot(e=1)", "lambda(e=1)", "vit(d=1,w=64,h=16)"])
def test_memory_on_a_large_map(make_view: MakeView, text: str) -> None:
    """Two samples of 112 x 112, with all scores of the attention at once."""
    module = fitting(text, make_view(*of_map(16, 16, 1, 112, 112)))
    scores = 4 * 2 * (16 if text.startswith("vit") else 4) * FULL_TOKENS**2
    if text.startswith("lambda"):
        scores = 0
    assert peak_activation_bytes(module, (torch.zeros(2, 16, 112, 112),)) + scores < 300 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("text", ["bot(e=4)", "lambda(e=4)", "vit(d=2,w=1024,h=16)"])
def test_memory_of_the_largest_ops_on_a_large_map(make_view: MakeView, text: str) -> None:
    module = fitting(text, make_view(*of_map(64, 64, 1, 112, 112)))
    assert peak_activation_bytes(module, (torch.zeros(2, 64, 112, 112),)) < 512 * 2**20


def test_options_in_text_form_come_back() -> None:
    for text in OPS:
        assert str(parse_op(text)) == text
    assert parse_op("bot(e=0.25)") == OpSpec.of("bot", e=0.25)
