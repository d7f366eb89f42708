"""The problem as data: normal form, defaults."""

from __future__ import annotations

import subprocess
import sys

import numpy as np


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
