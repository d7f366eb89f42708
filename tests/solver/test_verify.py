"""The independent check finds every kind of broken plan."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lanac.errors import SelectionError
from lanac.solver import SelectedPlan, verify_plan

BUG = "This is a fault of the solver, not of the data; please report it."
GOOD = SelectedPlan((0, 1), 0.5, {"ms": 3.5}, 0.0)


@pytest.fixture
def problem(build):
    return build(
        [[0.0, 1.0], [0.0, 0.5, 0.25]],
        costs={"ms": [[2.0, 1.0], [2.0, 1.0, 4.0]]},
        constants={"ms": 0.5},
        limits={"ms": 3.5},
        max_overlap=0,
        fixed={0: 0},
        forbidden=(((0, 0), (1, 0)),),
    )


def test_good_plan_passes(problem):
    verify_plan(problem, GOOD, [replace(GOOD, choices=(1, 0))])


@pytest.mark.parametrize(
    ("change", "earlier", "message"),
    [
        ({"choices": (0,)}, [], "expected one choice for each of the 2 slots, got 1."),
        ({"choices": (0, 3)}, [], ", slot 'slot1': expected an op index in 0..2, got 3."),
        ({"choices": (1, 1)}, [], ", slot 'slot0': expected the fixed op 'op0', got 'op1'."),
        (
            {"choices": (0, 0)},
            [],
            "expected forbidden set 0 not to be chosen as a whole, got all of it.",
        ),
        (
            {"score": 0.25},
            [],
            ", score: expected 0.5, the sum of the chosen scores, got 0.25.",
        ),
        (
            {"gap": math.inf},
            [],
            ", gap: expected a finite number of at least 0, got inf.",
        ),
        ({"costs": {}}, [], ", costs: expected totals of ['ms'], got []."),
        (
            {"costs": {"ms": 3.0}},
            [],
            ", 'ms': expected a total of 3.5, the sum of the chosen costs and the constant, "
            "got 3.0.",
        ),
        (
            {"choices": (0, 2), "score": 0.25, "costs": {"ms": 6.5}},
            [],
            ", 'ms': expected a total of at most 3.5, got 6.5, which exceeds it by 3.",
        ),
        ({}, [(1, 0), (1, 1)], "expected at most 0 choices shared with plan 1, got 1."),
    ],
)
def test_broken_plan(problem, change, earlier, message):
    plan = replace(GOOD, **change)
    with pytest.raises(SelectionError) as caught:
        verify_plan(problem, plan, [replace(GOOD, choices=choices) for choices in earlier])
    start = "plan check" if message.startswith(",") else "plan check: "
    assert str(caught.value) == f"{start}{message} {BUG}"
