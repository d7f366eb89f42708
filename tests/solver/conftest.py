"""A builder of small selection problems for the tests of the solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lanac.solver import SelectionProblem

Build = Callable[..., SelectionProblem]


@pytest.fixture(scope="session")
def build() -> Build:
    """Builds a problem from scores and optional fields; names and costs are made up."""

    def make(scores: list[list[float]], **fields: Any) -> SelectionProblem:
        given: dict[str, Any] = {
            "slots": tuple(f"slot{i}" for i in range(len(scores))),
            "ops": tuple(tuple(f"op{j}" for j in range(len(row))) for row in scores),
            "costs": {},
            "constants": {},
            "limits": {},
        }
        return SelectionProblem(scores=scores, **{**given, **fields})  # type: ignore[arg-type]

    return make
