"""Ops are built when they are needed, and again where they were not kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.errors import PoolError
from lanac.ir import TEACHER, parse_op
from lanac.ops.folding import is_foldable
from lanac.passes import time_parts
from lanac.passes.op_modules import OpModules
from lanac.passes.time_parts import Part

OPS = [parse_op(text) for text in ("efn(e=3,k=3,se=0)", "cb_res(k=3)", "repvgg(k=3)")]


@pytest.fixture
def begun(start):
    return start("flops=0.6x", "skip")


def block(compilation):
    return next(slot for slot in compilation.program.slots if slot.keeps_shape)


def same(one, other):
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_an_op_is_kept_while_there_is_room(begun):
    modules, slot = OpModules(begun), block(begun)
    assert modules.get(slot, OPS[0]) is modules.get(slot, OPS[0])


def test_an_op_that_was_not_kept_is_built_alike(begun):
    modules, slot = OpModules(begun, kept_bytes=1), block(begun)
    first = modules.get(slot, OPS[0])
    assert modules.get(slot, OPS[0]) is first  # the last one always is
    modules.get(slot, OPS[1])
    again = modules.get(slot, OPS[0])
    assert again is not first and same(again, first)


def test_what_runs_is_folded_and_the_teacher_is_its_own(begun):
    modules, slot = OpModules(begun), block(begun)
    assert not is_foldable(modules.get(slot, OPS[2]))
    ours = {id(value) for value in begun.program.teacher.parameters()}
    assert all(id(value) in ours for value in modules.get(slot, TEACHER).parameters())


def test_a_signature_is_made_once(begun, monkeypatch):
    modules, slot = OpModules(begun, kept_bytes=1), block(begun)
    text = modules.signature(slot, OPS[0])
    modules.get(slot, OPS[1])
    monkeypatch.setattr(modules, "_build", None)
    assert modules.signature(slot, OPS[0]) == text
    assert "Conv2d" in text


def test_an_op_that_cannot_be_built(begun):
    with pytest.raises(PoolError, match="unknown op family 'efm'"):
        OpModules(begun).get(block(begun), parse_op("efm(e=1)"))


def parts(*params):
    return [Part(str(place), nn.Identity, (), count) for place, count in enumerate(params)]


def grouped(parts):
    return list(time_parts._groups(parts, lambda _: True, 1))


def test_what_is_timed_together_fits_into_memory():
    most = time_parts.GROUP_PARAMS
    groups = grouped(parts(most, 1, most / 2, most / 2, most / 4, 2 * most))
    assert [[part.key for part in group] for group in groups] == [
        ["0"],
        ["1", "2"],
        ["3", "4"],
        ["5"],
    ]
    assert [len(group) for group in grouped(parts(*[1] * 50))] == [24, 24, 2]
