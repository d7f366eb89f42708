"""The problem as data: normal form, defaults."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from lanac.solver import solve


def test_any_sequence_becomes_tuples_of_floats(build):
    problem = build(
        [[0, np.float32(0.5)]],
        costs={"ms": np.array([[1, 2]])},
        limits={"ms": np.int64(3)},
        forbidden=[[(0, 1), [0, 1]]],
        fixed={np.int64(0): np.int64(0)},
    )
    assert problem.scores == ((0.0, 0.5),)
    assert problem.costs == {"ms": ((1.0, 2.0),)}
    assert type(problem.limits["ms"]) is float
    assert problem.forbidden == (((0, 1),),)
    assert problem.fixed == {0: 0}


def test_overlap_limit(build):
    assert build([[0.0]] * 3).overlap_limit == 2
    assert build([[0.0]] * 3, max_overlap=0).overlap_limit == 0


def test_import_does_not_load_the_solver():
    code = "import sys, lanac.solver; print('pyscipopt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_why_says_how_it_ended(build):
    def said(problem):
        return solve(problem).why(problem)

    free = build([[0.0, 1.0]] * 2, plan_count=2)
    assert said(free) == ("2 of 2 plans, each proven to be the best that respects those before it")
    assert said(build([[0.0, 1.0]] * 2, plan_count=9)) == (
        "only 4 of 9 plans exist that keep the limits and share at most 1 of 2 choices; "
        "allow more overlap"
    )
    assert said(build([[0.0], [0.0, 1.0]], plan_count=2, max_overlap=0)) == (
        "only 1 of 2 plans exist: two plans may share at most 0 of 2 choices, but 1 slots have "
        "only one op left; give an overlap of at least 1, or a larger pool"
    )
    tight = build([[0.0]], costs={"ms": [[2.0]]}, limits={"ms": 1.0})
    assert said(tight) == "no plan exists within the limits on ms (ms can reach 2)"
    own = build([[0.0, 1.0]] * 2, own=(0, 0), max_changed=0, forbidden=(((0, 0),),))
    assert said(own) == (
        "no plan exists within the limits on changed slots (changed slots can reach 1)"
    )
