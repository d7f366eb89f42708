"""Malformed problems: whole messages."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lanac.errors import SelectionError
from lanac.solver import solve

SCORES = [[0.0, 1.0], [0.0, 1.0]]
MS = {"ms": [[1.0, 2.0], [1.0, 2.0]]}
NUMBER = "expected a finite number in -1e+100..1e+100"
POSITIVE = "expected a finite number in 0..1e+100"
CORRECT = "Correct the number, or leave the entry out."

CASES: list[tuple[dict[str, Any], str]] = [
    (
        {"scores": [], "slots": (), "ops": ()},
        "selection problem: expected at least one slot, got none. "
        "Check that the partition of the teacher found slots.",
    ),
    (
        {"ops": (("a", "b"),)},
        "selection problem, ops: expected one pool for each of the 2 slots, got 1. "
        "Give the pools in the order of the slots.",
    ),
    (
        {"ops": (("a", "b"), ())},
        "selection problem, ops of slot 'slot1': expected at least one op, got none. "
        "Keep at least the teacher's own op in every pool.",
    ),
    (
        {"slots": ("s", "s")},
        "selection problem, slots: expected each name once, got 's' twice. Rename or remove one.",
    ),
    (
        {"ops": (("a", "b"), ("c", "c"))},
        "selection problem, ops of slot 'slot1': expected each name once, got 'c' twice. "
        "Rename or remove one.",
    ),
    (
        {"costs": {"ms": [[1.0, 2.0]]}},
        "selection problem, costs of 'ms': expected one row for each of the 2 slots, got 1. "
        "Give one row per slot, in the order of the slots.",
    ),
    (
        {"costs": {"ms": [[1.0, 2.0], [1.0]]}},
        "selection problem, costs of 'ms', slot 'slot1': expected 2 numbers, one per op, got 1. "
        "Give the numbers in the order of the ops.",
    ),
    (
        {"scores": [[0.0, math.nan], [0.0, 1.0]]},
        f"selection problem, scores, slot 'slot0', op 'op1': {NUMBER}, got nan. {CORRECT}",
    ),
    (
        {"scores": [[0.0, 1.0], [-math.inf, 1.0]]},
        f"selection problem, scores, slot 'slot1', op 'op0': {NUMBER}, got -inf. {CORRECT}",
    ),
    (
        {"scores": [[0.0, "high"], [0.0, 1.0]]},
        f"selection problem, scores, slot 'slot0', op 'op1': {NUMBER}, got 'high'. {CORRECT}",
    ),
    (
        {"costs": {"ms": [[1.0, -2.0], [1.0, 2.0]]}},
        "selection problem, costs of 'ms', slot 'slot0', op 'op1': "
        f"{POSITIVE}, got -2.0. {CORRECT}",
    ),
    (
        {"costs": {"ms": [[1.0, math.inf], [1.0, 2.0]]}},
        f"selection problem, costs of 'ms', slot 'slot0', op 'op1': {POSITIVE}, got inf. {CORRECT}",
    ),
    (
        {"limits": {"ms": math.inf}},
        f"selection problem, limits, resource 'ms': {NUMBER}, got inf. {CORRECT}",
    ),
    (
        {"constants": {"ms": -1.0}},
        f"selection problem, constants, resource 'ms': {POSITIVE}, got -1.0. {CORRECT}",
    ),
    (
        {"limits": {"mss": 1.0}},
        "selection problem, limits: unknown resource 'mss'. Did you mean 'ms'? Known: ms. "
        "Expected a resource with costs; add its costs or remove it from the limits.",
    ),
    (
        {"constants": {"flops": 1.0}},
        "selection problem, constants: unknown resource 'flops'. Known: ms. "
        "Expected a resource with costs; add its costs or remove it from the constants.",
    ),
    (
        {"plan_count": 0},
        "selection problem, plan_count: expected an integer of at least 1, got 0. "
        "Ask for at least one plan.",
    ),
    (
        {"max_overlap": 2},
        "selection problem, max_overlap: expected an integer in 0..1 (number of slots less one), "
        "got 2. Use None if plans only have to differ.",
    ),
    (
        {"max_overlap": -1},
        "selection problem, max_overlap: expected an integer in 0..1 (number of slots less one), "
        "got -1. Use None if plans only have to differ.",
    ),
    (
        {"fixed": {2: 0}},
        "selection problem, fixed: expected a slot index in 0..1, got 2. "
        "Indices follow the order of the slots.",
    ),
    (
        {"fixed": {0: 2}},
        "selection problem, fixed: expected an op index in 0..1 for slot 'slot0', got 2. "
        "Indices follow the order of the ops.",
    ),
    (
        {"fixed": {"slot0": 1}},
        "selection problem, fixed: expected a pair of integers (slot, op), got ('slot0', 1). "
        "Give indices, not names.",
    ),
    (
        {"forbidden": (((0, 1),), ())},
        "selection problem, forbidden set 1: expected at least one (slot, op), got none. "
        "An empty set would forbid every plan; remove it.",
    ),
    (
        {"fixed": {0: 1, 1: 0}, "forbidden": (((1, 0), (0, 1)),)},
        "selection problem, forbidden set 0: expected at least one choice left open, got all of "
        "them fixed (slot0=op1, slot1=op0). Remove the forbidden set or one of the fixings.",
    ),
    (
        {"kept": (0,)},
        "selection problem, kept: expected `own`, the op of each slot that changes nothing, got "
        "none. Give `own`, or fix the slots.",
    ),
    (
        {"own": (0, 0), "kept": (2,)},
        "selection problem, kept: expected a slot index in 0..1, got 2. "
        "Indices follow the order of the slots.",
    ),
    (
        {"own": (0,)},
        "selection problem, own: expected one op for each of the 2 slots, got 1. "
        "Give the index of the teacher's op in every pool.",
    ),
    (
        {"own": (0, 0), "kept": (1,), "fixed": {1: 1}},
        "selection problem, fixed, slot 'slot1': expected its own op 'op0' because the slot is "
        "kept, got 'op1'. Remove the fixing, or do not keep the slot.",
    ),
    (
        {"max_changed": 1},
        "selection problem, max_changed: expected `own`, the op of each slot that changes "
        "nothing, got none. Give `own`, or no limit on changed slots.",
    ),
    (
        {"own": (0, 0), "max_changed": -1},
        "selection problem, max_changed: expected an integer of at least 0, got -1. "
        "Use None for no limit.",
    ),
    (
        {"own": (0, 0), "max_changed": 1, "fixed": {0: 1, 1: 1}},
        "selection problem, max_changed: expected at least 2, because so many slots are fixed to "
        "another op than their own (slot0, slot1), got 1. Raise it, or remove a fixing.",
    ),
    (
        {"earlier": ((0,),)},
        "selection problem, earlier plan 0: expected one op for each of the 2 slots, got 1. "
        "Give whole plans; use `forbidden` for parts of plans.",
    ),
    (
        {"pair_scores": {((0, 0), (0, 1)): 1.0}},
        "selection problem, pair_scores of ((0, 0), (0, 1)): expected two different slots, got "
        "slot 'slot0' twice. A slot takes one op; correct the key.",
    ),
    (
        {"pair_scores": {((0, 0), (1, 1)): math.nan}},
        f"selection problem, pair_scores of ((0, 0), (1, 1)): {NUMBER}, got nan. {CORRECT}",
    ),
    (
        {"pair_scores": {((0, 0), (1, 1)): 1.0, ((1, 1), (0, 0)): 1.0}},
        "selection problem, pair_scores of ((1, 1), (0, 0)): expected each pair once, got it in "
        "both orders. Keep one of them.",
    ),
]


@pytest.mark.parametrize(("fields", "message"), CASES)
def test_malformed_problem(build, fields, message):
    given = {"scores": SCORES, "costs": MS, **fields}
    with pytest.raises(SelectionError) as caught:
        build(**given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"seed": -1},
            "selection, seed: expected an integer in 0..2147483647, got -1. "
            "Choose a seed in this range.",
        ),
        (
            {"time_limit_s": 0.0},
            "selection, time_limit_s: expected a number of seconds above 0, got 0.0. "
            "Use math.inf for no limit.",
        ),
        (
            {"gap": math.nan},
            "selection, gap: expected a finite number of at least 0, got nan. "
            "Use 0 for proven optimal plans, 0.02 for plans within 2 %.",
        ),
        (
            {"method": "cbc"},
            "selection, method: expected one of tree, scip, got 'cbc'. "
            "Use 'tree', or 'scip' for one call of SCIP per plan.",
        ),
    ],
)
def test_malformed_options(build, options, message):
    with pytest.raises(SelectionError) as caught:
        solve(build(SCORES), **options)
    assert str(caught.value) == message
