"""What families say that their ops cost, against what is counted of the built ops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lanac.ir import OpSpec, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.base import CountedFamily
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.targets.counting import count_flops, count_params

MakeView = Callable[..., SlotView]
NAMES = ("efn", "efnv2", "cb_stack", "cb_bottle", "cb_res", "repvgg", "conv_cs")


def view_for(
    make_view: MakeView, inputs: int, outputs: int, stride: int, size: tuple[int, int]
) -> SlotView:
    return make_view(nn.Conv2d(inputs, outputs, 3, stride, 1), torch.zeros(2, inputs, *size))


def counted(op: OpSpec, view: SlotView) -> tuple[int, int]:
    """Params and flops of the op as it runs, for one sample."""
    module = folded(build_op(op, view, seed=0))
    x = torch.zeros(1, *view.input_spec.sample_shape)
    return count_params(module), count_flops(module, (x,))


def by_formula(op: OpSpec, view: SlotView) -> tuple[int, int]:
    family = FAMILIES.get(op.family)
    assert isinstance(family, CountedFamily)
    return tuple(family.count(op, view))  # type: ignore[return-value]


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_formulas_give_what_is_counted(make_view: MakeView, data: st.DataObject, name: str) -> None:
    channels, sizes = st.integers(1, 20), st.integers(1, 15)
    stride = data.draw(st.sampled_from([1, 2, 4]))
    size = data.draw(st.tuples(sizes, sizes))
    view = view_for(make_view, data.draw(channels), data.draw(channels), stride, size)
    op = data.draw(st.sampled_from(list(FAMILIES.get(name).enumerate(view))))
    assert by_formula(op, view) == counted(op, view)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("outputs", "stride"), [(16, 1), (24, 2)])
def test_the_whole_grid(make_view: MakeView, name: str, outputs: int, stride: int) -> None:
    view = view_for(make_view, 16, outputs, stride, (7, 6))
    for op in FAMILIES.get(name).enumerate(view):
        assert by_formula(op, view) == counted(op, view), op


def test_nothing_is_built(make_view: MakeView, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot so large that its ops would not fit into memory."""
    x = torch.zeros(1, 1, 1, 1).expand(2, 20_000, 1, 1)
    view = make_view(nn.Identity(), x)
    op = parse_op("cb_stack(k=7,w=4)")
    assert by_formula(op, view)[0] == 2 * 4 * 20_000**2 * 49 + 2 * (80_000 + 20_000)


def test_an_expected_number(make_view: MakeView) -> None:
    """By hand: 16 -> 96 (1x1), 96 depthwise 3x3, gate to 4 and back, 96 -> 24 (1x1); 8x8 to 4x4."""
    view = view_for(make_view, 16, 24, 2, (8, 8))
    params = (16 * 96 + 192) + (96 * 9 + 192) + (96 * 4 + 4 + 4 * 96 + 96) + (96 * 24 + 48)
    flops = 2 * (16 * 96 * 64 + 96 * 9 * 16 + 2 * 96 * 4 + 96 * 24 * 16)
    assert by_formula(parse_op("efn(e=6,k=3,se=0.04)"), view) == (params, flops)
