from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from lanac.errors import PoolError
from lanac.ir import OpSpec, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.build import build_op, check_op

MakeView = Callable[..., SlotView]
OP = parse_op("efn(e=3,k=3,se=0.04)")


@dataclass(frozen=True)
class Custom:
    """A family whose op is given."""

    make: Callable[[], nn.Module]
    name: str = "custom"
    equation: str = "y = ?"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [OpSpec("custom")]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        return self.make()


@pytest.fixture
def view(make_view: MakeView) -> SlotView:
    return make_view(nn.Conv2d(4, 4, 3, padding=1), torch.zeros(2, 4, 6, 6))


def weights(module: nn.Module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def message_of(
    monkeypatch: pytest.MonkeyPatch, view: SlotView, make: Callable[[], nn.Module]
) -> str:
    FAMILIES.names()
    monkeypatch.setitem(FAMILIES._items, "custom", Custom(make))
    with pytest.raises(PoolError) as caught:
        build_op(OpSpec.of("custom", w=2), view, 0)
    return str(caught.value)


def test_an_op_is_the_same_whatever_was_built_before(view: SlotView) -> None:
    first = build_op(OP, view, seed=1)
    torch.manual_seed(99)
    build_op(parse_op("cb_bottle(k=3,w=0.5)"), view, seed=1)
    assert same(build_op(OP, view, seed=1), first)


def test_seed_slot_and_op_give_other_weights(view: SlotView) -> None:
    first = build_op(OP, view, seed=1)
    assert not same(build_op(OP, view, seed=2), first)
    elsewhere = replace(view, slot=replace(view.slot, name="another"))
    assert not same(build_op(OP, elsewhere, seed=1), first)


def test_building_draws_nothing_from_the_global_generator(view: SlotView) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_op(OP, view, seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_an_unknown_family(view: SlotView) -> None:
    with pytest.raises(PoolError) as caught:
        build_op(OpSpec("slimm"), view, 0)
    assert "unknown op family 'slimm'. Did you mean 'slim'?" in str(caught.value)


def test_a_shape_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, view: SlotView) -> None:
    assert message_of(monkeypatch, view, lambda: nn.Conv2d(4, 5, 3)) == (
        "op custom(w=2) in slot 'a.slot' gives shape (2, 5, 4, 4), expected (2, 4, 6, 6)"
    )


def test_an_op_that_fails(monkeypatch: pytest.MonkeyPatch, view: SlotView) -> None:
    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("no")

    assert message_of(monkeypatch, view, Broken) == (
        "op custom(w=2) fails on the input of slot 'a.slot', f32[N,4,6,6]: ValueError: no"
    )


def test_an_op_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch, view: SlotView) -> None:
    def broken() -> nn.Module:
        raise ZeroDivisionError("zero")

    assert message_of(monkeypatch, view, broken) == (
        "op custom(w=2) cannot be built for slot 'a.slot': ZeroDivisionError: zero"
    )


def test_an_op_that_gives_no_tensor(monkeypatch: pytest.MonkeyPatch, view: SlotView) -> None:
    class Pair(nn.Module):
        def forward(self, x: Any) -> Any:
            return x, x

    assert message_of(monkeypatch, view, Pair) == (
        "op custom(w=2) in slot 'a.slot' gives a tuple, expected one tensor, f32[N,4,6,6]"
    )


@pytest.mark.parametrize("text", ["teacher", "identity", str(OP), "cb_bottle(k=3,w=0.5)"])
def test_lanacs_own_ops_pass_what_is_asked_of_others(view: SlotView, text: str) -> None:
    op = parse_op(text)
    check_op(op, build_op(op, view, 0), view)


def test_checking_draws_nothing_from_the_global_generator(view: SlotView) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_op(OP, nn.Sequential(build_op(OP, view, seed=1), nn.Dropout()).eval(), view)
    assert torch.equal(torch.rand(4), expected)


class ByPlace(nn.Module):
    """Right for a batch of two, wrong for others."""

    def forward(self, x: Any) -> Any:
        return x[:2]


def test_another_batch_is_tried(view: SlotView) -> None:
    op = OpSpec("by_place")
    with pytest.raises(PoolError) as caught:
        check_op(op, ByPlace(), view)
    assert str(caught.value) == (
        "op by_place in slot 'a.slot' gives shape (2, 4, 6, 6), expected (3, 4, 6, 6)"
    )
