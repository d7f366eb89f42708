"""Ops that fail somewhere on the way to their costs: dropped, named, and the run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from lanac import run_passes
from lanac.ir import IDENTITY, TEACHER, OpSpec
from lanac.ops import FAMILIES
from lanac.passes import MeasureCosts, PrunePool
from lanac.passes.latency import Thoroughness
from lanac.targets import Effort

QUICK = Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))
COSTS = MeasureCosts(QUICK)
OP = OpSpec.of("faulty", k=1)


@dataclass(frozen=True)
class Faulty:
    """A family from outside whose op is given; it fits what keeps its shape."""

    make: Any
    name: str = "faulty"
    equation: str = "y = ?"

    def enumerate(self, view):
        return [OP] if view.slot.keeps_shape else []

    def build(self, op, view):
        return self.make()


class Op(nn.Module):
    """An op whose forward is given."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


def unbuilt():
    raise ZeroDivisionError("zero")


def by_values(x):
    return x if x.sum() > 0 else -x


def many_only(x):
    return x.narrow(0, 0, 2)


FAULTS = {
    "not built": (unbuilt, "op {op} cannot be built for slot {slot!r}: ZeroDivisionError: zero"),
    "wrong shape": (
        lambda: nn.MaxPool2d(2),
        "op {op} in slot {slot!r} gives shape (2, 16, 6, 6), expected (2, 16, 12, 12)",
    ),
    "not run": (
        lambda: Op(lambda x: x + torch.zeros(7)),
        "op {op} fails on the input of slot {slot!r}, f32[N,16,12,12]: RuntimeError: ",
    ),
    "not traced": (
        lambda: Op(by_values),
        "op {op} of slot {slot!r} cannot be counted: TraceError: ",
    ),
    "not for one sample": (
        lambda: Op(many_only),
        "op {op} of slot {slot!r} cannot be counted: RuntimeError: ",
    ),
    "not exported": (
        lambda: Op(torch.special.i0),
        "op {op} of slot {slot!r} cannot be timed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_op_is_dropped_and_named(start, monkeypatch, fault):
    make, message = FAULTS[fault]
    FAMILIES.names()
    monkeypatch.setitem(FAMILIES._items, "faulty", Faulty(make))
    compilation = run_passes(start("0.6x", "identity,faulty"), [COSTS])
    left = {op for ops in compilation.pool.values() for op in ops}
    assert left == {TEACHER, IDENTITY}
    dropped = [text for text in compilation.instruments.warned if text.startswith("dropped: ")]
    assert len(dropped) == 4
    for text, slot in zip(dropped, ("blocks.0", "blocks.1", "blocks.3", "blocks.4"), strict=True):
        if slot in ("blocks.0", "blocks.1"):
            assert text.startswith("dropped: " + message.format(op=OP, slot=slot))
        assert f"{slot!r}" in text and str(OP) in text
    costs = compilation.costs.costs
    assert all(OP not in ops for ops in costs["latency_ms"].values())
    run_passes(compilation, [PrunePool()])


def test_a_faulty_op_is_dropped_where_no_latency_is_measured(start, monkeypatch):
    FAMILIES.names()
    monkeypatch.setitem(FAMILIES._items, "faulty", Faulty(lambda: Op(by_values)))
    compilation = run_passes(start("flops=0.6x", "identity,faulty"), [COSTS])
    assert {op for ops in compilation.pool.values() for op in ops} == {TEACHER, IDENTITY}
