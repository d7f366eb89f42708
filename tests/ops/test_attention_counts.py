"""What ops with attention cost by formula, against what the built ops cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lanac.ir import OpSpec, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.base import CountedFamily, Counts
from lanac.ops.build import build_op
from lanac.targets.counting import count_flops, count_params

MakeView = Callable[..., SlotView]


def formula(op: OpSpec, view: SlotView) -> Counts:
    family = FAMILIES.get(op.family)
    assert isinstance(family, CountedFamily)
    return family.count(op, view)


def counted(op: OpSpec, view: SlotView) -> Counts:
    module = build_op(op, view, 0)
    x = torch.zeros(view.input_spec.with_batch(1).shape)
    return Counts(count_params(module), count_flops(module, (x,)))


def check(op: OpSpec, view: SlotView) -> None:
    if op in list(FAMILIES.get(op.family).enumerate(view)):
        assert formula(op, view) == counted(op, view)


@pytest.mark.parametrize(
    "text", ["vit(d=2,w=32,h=8)", "bot(e=0.5)", "lambda(e=0.5)", "lambda(e=3)"]
)
def test_formulas_hold_in_every_slot(slot: SlotView, text: str) -> None:
    check(parse_op(text), slot)


@pytest.mark.parametrize("name", ["vit", "bot", "lambda"])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(8, 8, 1), (12, 20, 2)])
def test_formulas_hold_for_every_op(
    make_view: MakeView, name: str, inputs: int, outputs: int, stride: int
) -> None:
    view = make_view(nn.Conv2d(inputs, outputs, 3, stride, 1), torch.zeros(2, inputs, 5, 4))
    for op in FAMILIES.get(name).enumerate(view):
        check(op, view)


@settings(max_examples=25)
@given(
    text=st.sampled_from(["vit(d=1,w=32,h=4)", "bot(e=1)", "lambda(e=0.25)"]),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    stride=st.sampled_from([1, 2, 4]),
)
def test_formulas_hold_for_any_map(
    make_view: MakeView,
    text: str,
    channels: tuple[int, int],
    size: tuple[int, int],
    stride: int,
) -> None:
    module = nn.Conv2d(*channels, 3, stride, 1)
    check(parse_op(text), make_view(module, torch.zeros(2, channels[0], *size)))


def test_inherited_positions_are_counted(make_view: MakeView) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(5, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table

    view, op = make_view(Positions(), torch.zeros(2, 5, 8)), parse_op("vit(d=1,w=32,h=4)")
    check(op, view)
    plain = make_view(nn.Linear(8, 8), torch.zeros(2, 5, 8))
    assert formula(op, view).params == formula(op, plain).params + 5 * 8


def test_a_formula_by_hand(make_view: MakeView) -> None:
    """Two tokens, three channels, four wide."""
    view = make_view(nn.Linear(3, 3), torch.zeros(2, 2, 3))
    around = 2 * (3 * 4) + 4 + 3
    block = 2 * 8 + (4 * 12 + 12) + (4 * 4 + 4) + (4 * 16 + 16) + (16 * 4 + 4)
    products = 2 * 2 * (3 * 4) * 2 + 2 * 2 * (4 * 12 + 4 * 4 + 2 * 4 * 16) + 2 * 2 * 2 * 2 * 4
    assert formula(parse_op("vit(d=1,w=4,h=4)"), view) == (around + block + 8, products)
