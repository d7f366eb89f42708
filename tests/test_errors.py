from __future__ import annotations

import inspect

import pytest

from lanac import errors
from lanac.errors import LanacError, unknown_name

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_a_documented_lanac_error(error: type[Exception]) -> None:
    assert issubclass(error, LanacError)
    assert error.__doc__ and error.__doc__.endswith(".")
    assert str(error("what happened")) == "what happened"


def test_an_infeasible_budget_is_a_budget_error() -> None:
    assert issubclass(errors.InfeasibleBudgetError, errors.BudgetError)


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    assert unknown_name("op family", "slimm", ["slim", "efn"]) == (
        "unknown op family 'slimm'. Did you mean 'slim'? Known: efn, slim."
    )
    assert unknown_name("device", "v10", ["v100", "v10e", "cpu"]) == (
        "unknown device 'v10'. Did you mean 'v10e' or 'v100'? Known: cpu, v100, v10e."
    )


def test_an_unknown_name_with_nothing_near() -> None:
    assert unknown_name("device", "toaster", ["cpu"]) == "unknown device 'toaster'. Known: cpu."
