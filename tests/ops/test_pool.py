from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lanac.errors import PoolError
from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.pool import (
    NAMED_POOLS,
    ListingError,
    enumerate_slot,
    known_pool_names,
    needs_distillation,
    parse_pool,
)
from lanac.ops.values import LimitedFamily

NAMES = ", ".join(sorted([*NAMED_POOLS, *FAMILIES.names()]))
KNOWN = f"Known: {NAMES}."


@pytest.fixture(scope="module")
def program() -> Program:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()),
    )
    return partition(trace(model, (torch.zeros(2, 3, 8, 8),)))


def ops_of(program: Program, slot: int, pool: str) -> list[str]:
    return [str(op) for op in enumerate_slot(program, program.slots[slot], parse_pool(pool))]


def test_pools_families_and_single_ops_by_commas() -> None:
    assert parse_pool(" skip, efn(e=1,k=3,se=0) ,slim,") == (
        FAMILIES.get("identity"),
        parse_op("efn(e=1,k=3,se=0)"),
        FAMILIES.get("slim"),
    )


@pytest.mark.parametrize("name", sorted(NAMED_POOLS))
def test_every_named_pool_fits_some_slot(program: Program, name: str) -> None:
    assert parse_pool(name)
    single = [op for op in parse_pool(name) if isinstance(op, OpSpec)]
    found = ops_of(program, 1, name)
    assert all(str(op) in found for op in single)


def test_the_pool_of_the_paper_has_197_ops(program: Program) -> None:
    """For a slot that keeps its shape; where the stem changes it, identity is missing."""
    split = {
        "teacher": 1, "identity": 1,
        "efn": 27, "efnv2": 27,
        "cb_stack": 40, "cb_bottle": 40, "cb_res": 4, "repvgg": 1, "conv_cs": 8,
        "vit": 36, "bot": 6, "lambda": 6,
    }  # fmt: skip
    pool = enumerate_slot(program, program.slots[1], parse_pool("paper"))
    assert Counter(op.family for op in pool) == split
    assert len(pool) == len(set(pool)) == sum(split.values()) == 197
    stem = enumerate_slot(program, program.slots[0], parse_pool("paper"))
    assert {*pool} - {*stem} == {IDENTITY} and len(stem) == 196


@pytest.mark.parametrize("text", ["", " , "])
def test_an_empty_pool(text: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_pool(text)
    assert str(caught.value) == f"pool {text!r} is empty; known: {NAMES}"
    assert known_pool_names() == NAMES.split(", ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slimm", f"unknown pool or op family 'slimm'. Did you mean 'slim'? {KNOWN}"),
        ("efm(e=1)", f"unknown pool or op family 'efm'. Did you mean 'efn' or 'efnv2'? {KNOWN}"),
        ("efn(e=1", "op 'efn(e=1': expected FAMILY or FAMILY(option=value,...)"),
        ("efn(3)", "op 'efn(3)': expected option=value, got '3'"),
    ],
)
def test_what_is_no_pool(text: str, message: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_pool(text)
    assert str(caught.value) == message


def test_the_teachers_op_is_first_and_nothing_is_repeated(program: Program) -> None:
    found = ops_of(program, 1, "efn,skip,efn(e=1,k=3,se=0),teacher,identity")
    assert found[0] == "teacher"
    assert len(found) == len(set(found)) == 1 + 27 + 1
    assert found.count("identity") == 1


def test_what_does_not_fit_a_slot_is_not_in_its_pool(program: Program) -> None:
    assert ops_of(program, 0, "skip,cb_bottle(k=3,w=0.5)") == ["teacher", "cb_bottle(k=3,w=0.5)"]
    assert ops_of(program, 1, "skip") == ["teacher", "identity"]


def test_options_in_another_order_are_the_same_op(program: Program) -> None:
    for pool in ("efn(se=0,k=3,e=1)", "efn(se=0,k=3,e=1),efn(e=1,k=3,se=0)"):
        assert ops_of(program, 0, pool) == ["teacher", "efn(e=1,k=3,se=0)"]


def test_values_off_the_familys_grid_are_tried_too(program: Program) -> None:
    assert ops_of(program, 0, "efn(k=3,e=2,se=0.1)") == ["teacher", "efn(e=2,k=3,se=0.1)"]


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            "efn(e=3,kk=3,se=0)",
            "unknown option of efn 'kk'. Did you mean 'k'? Known: e, k, se.",
        ),
        ("efn(e=3,se=0)", "option 'k' is missing; expected all, as in efn(e=1,k=1,se=0)"),
        ("efn(e=3,k=3,se=0,k=5)", "option 'k' is given twice, expected once"),
        (
            "efn(e=three,k=3,se=0)",
            "option 'e' is 'three', expected a whole number, as in efn(e=1,k=1,se=0)",
        ),
        (
            "efn(e=1.5,k=3,se=0)",
            "option 'e' is 1.5, expected a whole number, as in efn(e=1,k=1,se=0)",
        ),
        (
            "efn(e=3,k=3,se=none)",
            "option 'se' is 'none', expected a number, as in efn(e=1,k=1,se=0)",
        ),
        ("identity(x=1)", "identity takes no options"),
    ],
)
def test_options_that_a_family_does_not_take(program: Program, op: str, message: str) -> None:
    with pytest.raises(PoolError) as caught:
        ops_of(program, 1, op)
    assert str(caught.value) == f"op {op!r}: {message}"


@pytest.mark.parametrize(
    ("op", "option", "value", "expected"),
    [
        ("efn(e=3,k=4,se=0)", "k", "4", "an odd number from 1 on: an even kernel changes the size"),
        ("efn(e=0,k=3,se=0)", "e", "0", "a whole number from 1 on"),
        ("efnv2(e=1,k=3,se=1.5)", "se", "1.5", "a number from 0 (none) to 1"),
        ("cb_stack(k=3,w=0)", "w", "0", "a number above 0"),
        ("cb_stack(k=3,w=inf)", "w", "inf", "a number above 0"),
        ("bot(e=-1)", "e", "-1", "a number above 0"),
        ("vit(d=1,w=32,h=0)", "h", "0", "a whole number from 1 on"),
        ("conv_cs(k=3,p=shake)", "p", "'shake'", "shuffle or shift"),
        ("lambda(e=nan)", "e", "nan", "a number above 0"),
    ],
)
def test_values_that_make_no_op(
    program: Program, op: str, option: str, value: str, expected: str
) -> None:
    """Refused once, before any slot is tried."""
    first = next(iter(FAMILIES.get(op.split("(")[0]).enumerate(view_of_block(program))))
    with pytest.raises(PoolError) as caught:
        ops_of(program, 1, op)
    assert str(caught.value) == (
        f"op {op!r}: option {option!r} is {value}, expected {expected}; as in {first}"
    )


def view_of_block(program: Program) -> SlotView:
    return SlotView.of(program, program.slots[1])


@pytest.mark.parametrize("name", FAMILIES.names())
def test_a_familys_own_grid_has_values_that_it_takes(program: Program, name: str) -> None:
    family = FAMILIES.get(name)
    ops = list(family.enumerate(view_of_block(program)))
    limited = dict(family.option_values) if isinstance(family, LimitedFamily) else {}
    assert {option for op in ops for option, _ in op.options} <= {*limited}
    for op in ops:
        assert all(limited[option].hold(value) for option, value in op.options)
        assert str(op) in ops_of(program, 1, str(op))


class Listing:
    """A family whose one op is given."""

    name, equation = "listing", ""

    def __init__(self, op: OpSpec) -> None:
        self.op = op

    def enumerate(self, view: SlotView) -> list[OpSpec]:
        return [self.op]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        return nn.Identity()


VALUES = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=4))


@given(st.dictionaries(st.sampled_from(["k", "w", "norm"]), VALUES, max_size=3))
def test_what_is_listed_can_be_read_back(program: Program, options: dict[str, Any]) -> None:
    op = OpSpec.of("listing", **options)
    try:
        found = enumerate_slot(program, program.slots[1], [Listing(op)])
    except ListingError:
        return
    assert [parse_op(str(one)) for one in found] == [TEACHER, op]
    assert not any(isinstance(value, bool) for value in options.values())


@pytest.mark.parametrize("options", [{}, {"k": 3}, {"w": 0.5, "k": -1}, {"kind": "depthwise"}])
def test_numbers_and_words_can_be_listed(program: Program, options: dict[str, Any]) -> None:
    op = OpSpec.of("listing", **options)
    assert enumerate_slot(program, program.slots[1], [Listing(op)]) == (TEACHER, op)


def test_only_candidates_are_distilled() -> None:
    assert not needs_distillation(TEACHER)
    assert not needs_distillation(IDENTITY)
    assert needs_distillation(parse_op("slim(w=0.5)"))
