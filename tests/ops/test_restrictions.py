from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.errors import SelectionError
from lanac.frontend.build import build_program
from lanac.ir import TEACHER, Program, parse_op
from lanac.ops.restrictions import Restrictions


@pytest.fixture(scope="module")
def program() -> Program:
    model = nn.Sequential()
    for name in ("stem", "body_a", "body_b"):
        model.add_module(name, nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU()))
    return build_program(model, (torch.randn(2, 3, 8, 8),))


def test_ops_by_slot_and_slots_that_stay(program: Program) -> None:
    found = Restrictions.of(program, ["stem=efn(e=3,k=3,se=0)"], ["body_*"], 2)
    fixed = {"stem": parse_op("efn(e=3,k=3,se=0)"), "body_a": TEACHER, "body_b": TEACHER}
    assert found == Restrictions(fixed, 2)
    assert Restrictions.of(program) == Restrictions()


def test_the_same_twice_is_no_contradiction(program: Program) -> None:
    found = Restrictions.of(program, ["stem = teacher"], ["s*", "stem"])
    assert found.fixed == {"stem": TEACHER}


SLOTS = "Known: body_a, body_b, stem."


@pytest.mark.parametrize(
    ("fix", "keep", "most", "message"),
    [
        (["stem"], [], None, "--fix 'stem': expected SLOT=OP, as in stem=teacher"),
        (["stem="], [], None, "--fix 'stem=': expected SLOT=OP, as in stem=teacher"),
        (
            ["stm=identity"],
            [],
            None,
            f"--fix 'stm=identity': unknown slot 'stm'. Did you mean 'stem'? {SLOTS}",
        ),
        ([], ["head*"], None, f"--keep 'head*': unknown slot 'head*'. {SLOTS}"),
        (
            ["stem=identity"],
            ["st*"],
            None,
            "--keep 'st*': slot 'stem' is set to identity already",
        ),
        (
            ["stem=identity", "stem=slim(w=0.5)"],
            [],
            None,
            "--fix 'stem=slim(w=0.5)': slot 'stem' is set to identity already",
        ),
        (
            ["stem=identity", "body_a=identity"],
            [],
            1,
            "--max-changed 1: --fix changes 2 slots already (stem, body_a)",
        ),
        ([], [], -1, "--max-changed -1: expected 0 or more"),
    ],
)
def test_what_cannot_be_asked(
    program: Program, fix: list[str], keep: list[str], most: int | None, message: str
) -> None:
    with pytest.raises(SelectionError) as caught:
        Restrictions.of(program, fix, keep, most)
    assert str(caught.value) == message
