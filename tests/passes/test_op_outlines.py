"""Outlines: the structure of ops without their weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.errors import PoolError
from lanac.frontend.build import build_program
from lanac.ir import IDENTITY, parse_op, signature
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.families import Families, OwnFamily
from lanac.ops.folding import folded
from lanac.ops.pool import enumerate_slot, parse_pool
from lanac.passes.op_outlines import OpOutlines, is_outline
from lanac.targets import count_flops, count_params, peak_activation_bytes
from lanac.targets.predicted import record_kernels


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1)
        )

    def forward(self, x):
        return x + self.body(x)


@pytest.fixture(scope="module")
def program():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Residual(), Residual())
    return build_program(net.eval(), (torch.zeros(2, 3, 8, 8),))


@pytest.fixture
def slots(program):
    return [slot for slot in program.slots if slot.keeps_shape]


def test_the_kernels_are_those_of_the_op(program, slots):
    outlines = OpOutlines(program)
    members = parse_pool("efn,cb_bottle,repvgg,vit,bot,lambda,slim,lowrank")
    view = SlotView.of(program, slots[0])
    specs = [slots[0].input_spec.with_batch(4)]
    for op in enumerate_slot(program, slots[0], members)[1:]:
        real = record_kernels(folded(build_op(op, view, 0)), specs)
        outline = record_kernels(outlines.get(slots[0], op), specs)
        assert [(k.name, k.work, k.read_bytes) for k in outline.kernels] == [
            (k.name, k.work, k.read_bytes) for k in real.kernels
        ], op


def test_outlines_are_counted_like_the_ops(program, slots):
    outlines = OpOutlines(program)
    view, spec = SlotView.of(program, slots[0]), slots[0].input_spec.with_batch(1)
    ops = enumerate_slot(program, slots[0], parse_pool("paper"))
    drawn = [op for place, op in enumerate(ops) if place % 6 == 1 and op != IDENTITY]
    assert len({op.family for op in drawn}) > 8
    for op in drawn:
        real, outline = folded(build_op(op, view, 0)), outlines.get(slots[0], op)
        assert is_outline(outline) and not is_outline(real), op
        inputs = torch.zeros(spec.shape)
        for count in (count_flops, peak_activation_bytes):
            assert count(outline, (inputs.to("meta"),)) == count(real, (inputs,)), (op, count)
        assert count_params(outline) == count_params(real), op
        assert signature(outline, spec) == signature(real, spec), op


def test_an_outline_of_another_shape_is_refused_like_the_op(program, slots):
    class Wider:
        name = "wider"

        def enumerate(self, view):
            return ()

        def build(self, op, view):
            return nn.Conv2d(16, 17, 1)

    outlines = OpOutlines(program, Families([OwnFamily(Wider(), "here", "")]))
    with pytest.raises(
        PoolError,
        match=r"^op wider in slot '.*' gives shape \(2, 17, 8, 8\), expected \(2, 16, 8, 8\)$",
    ):
        outlines.get(slots[0], parse_op("wider"))


def test_alike_slots_share_what_takes_nothing_from_the_teacher(program, slots):
    outlines = OpOutlines(program)
    fresh, inherited = parse_op("efn(e=3,k=3,se=0)"), parse_op("slim(w=0.5)")
    assert outlines.key(slots[0], fresh) == outlines.key(slots[1], fresh)
    assert outlines.get(slots[0], fresh) is outlines.get(slots[1], fresh)
    assert outlines.key(slots[0], inherited) != outlines.key(slots[1], inherited)
