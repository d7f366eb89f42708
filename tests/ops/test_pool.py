from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.errors import PoolError
from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, parse_op
from lanac.ops import FAMILIES
from lanac.ops.pool import (
    NAMED_POOLS,
    enumerate_slot,
    known_pool_names,
    needs_distillation,
    parse_pool,
)

NAMES = "cb_bottle, default, efn, identity, inherit, kernel, lowrank, relu, shrink_se, skip, slim, teacher"
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


@pytest.mark.parametrize("text", ["", " , "])
def test_an_empty_pool(text: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_pool(text)
    assert str(caught.value) == f"pool {text!r} is empty; known: {NAMES}"
    assert known_pool_names() == sorted(known_pool_names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slimm", f"unknown pool or op family 'slimm'. Did you mean 'slim'? {KNOWN}"),
        ("efm(e=1)", f"unknown pool or op family 'efm'. Did you mean 'efn'? {KNOWN}"),
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


def test_options_that_the_family_does_not_have(program: Program) -> None:
    with pytest.raises(PoolError) as caught:
        ops_of(program, 0, "efn(e=1,kernel=3,se=0)")
    assert str(caught.value) == (
        "op 'efn(e=1,kernel=3,se=0)' has options ['e', 'kernel', 'se'], "
        "family 'efn' takes ['e', 'k', 'se'], as in efn(e=1,k=1,se=0)"
    )


def test_only_candidates_are_distilled() -> None:
    assert not needs_distillation(TEACHER)
    assert not needs_distillation(IDENTITY)
    assert needs_distillation(parse_op("slim(w=0.5)"))
