from __future__ import annotations

import pytest
import torch

from lanac.ir import IDENTITY, TEACHER, OpSpec, Slot, TensorSpec
from lanac.targets import FLOPS, LATENCY, MEMORY, PARAMS, CostTable

SPEC = TensorSpec((1, 2, 3, 3), torch.float32)
SLOTS = tuple(Slot(name, (name,), "x", SPEC, SPEC) for name in ("a", "b"))
SLIM = OpSpec.of("slim", w=0.5)


def table() -> CostTable:
    costs = {
        LATENCY: {
            "a": {TEACHER: 4.0, SLIM: 3.0, IDENTITY: 0.0},
            "b": {TEACHER: 2.0, SLIM: 1.99, IDENTITY: 0.0},
        },
        PARAMS: {
            "a": {TEACHER: 40.0, SLIM: 50.0, IDENTITY: 0.0},
            "b": {TEACHER: 20.0, SLIM: 20.0, IDENTITY: 0.0},
        },
        MEMORY: {
            "a": {TEACHER: 7.0, SLIM: 5.0, IDENTITY: 1.0},
            "b": {TEACHER: 9.0, SLIM: 3.0, IDENTITY: 1.0},
        },
    }
    constants = {LATENCY: 0.5, PARAMS: 3.0, MEMORY: 6.0}
    teacher = {LATENCY: 6.5, PARAMS: 63.0, MEMORY: 9.0}
    return CostTable(costs, constants, teacher, dict.fromkeys(costs, "counted"))


@pytest.mark.parametrize(
    ("ops", "totals"),
    [
        ((TEACHER, TEACHER), {LATENCY: 6.5, PARAMS: 63, MEMORY: 9}),
        ((SLIM, IDENTITY), {LATENCY: 3.5, PARAMS: 53, MEMORY: 6}),  # what lies outside is largest
        ((TEACHER, SLIM), {LATENCY: 6.49, PARAMS: 63, MEMORY: 7}),
    ],
)
def test_totals_are_sums_but_the_largest_for_memory(
    ops: tuple[OpSpec, ...], totals: dict[str, float]
) -> None:
    assert table().totals(SLOTS, ops) == pytest.approx(totals)


def test_a_plan_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^zip\(\) argument 2 is shorter than argument 1$"):
        table().total(PARAMS, SLOTS, (TEACHER,))


def test_cheaper_in_at_least_one_resource() -> None:
    costs = table()
    assert costs.is_cheaper(SLOTS[0], SLIM, (LATENCY,))
    assert not costs.is_cheaper(SLOTS[0], SLIM, (PARAMS,))
    assert costs.is_cheaper(SLOTS[0], SLIM, (PARAMS, LATENCY))
    assert not costs.is_cheaper(SLOTS[1], SLIM, (PARAMS,))  # as much is not less
    assert not costs.is_cheaper(SLOTS[0], TEACHER, (LATENCY, PARAMS, MEMORY))


def test_resources_are_apart() -> None:
    assert len({LATENCY, PARAMS, FLOPS, MEMORY}) == 4
