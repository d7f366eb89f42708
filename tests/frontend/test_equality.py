from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lanac.frontend.equality import difference

X = torch.tensor([1.0, 2.0, float("nan")])


@dataclass
class Output:
    a: Tensor
    b: Any = None


@pytest.mark.parametrize(
    "value",
    [X, {"a": [X, (X, None)]}, Output(X, "text"), float("nan"), 3, None, X.to(torch.complex64)],
    ids=str,
)
def test_what_is_the_same(value: Any) -> None:
    assert difference(value, value) is None
    assert difference(value, value, is_exact=False) is None


def test_an_ordered_dict_is_a_dict() -> None:
    assert difference(OrderedDict(a=X), {"a": X}) is None


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [
        (X, X + 1, "output has other values"),
        (X, X.double(), "output is (3,) torch.float64, expected (3,) torch.float32"),
        (torch.ones(1), torch.ones(3), "output is (3,) torch.float32, expected (1,) torch.float32"),
        ({"a": X}, {"b": X}, "output holds ['b'], expected ['a']"),
        ([X, 1], [X, 2], "output[1] is 2, expected 1"),
        ((X,), [X], "output is a list, expected a tuple"),
        (Output(X, "a"), Output(X, "b"), "output['b'] is 'b', expected 'a'"),
        (X, None, "output is a NoneType, expected a Tensor"),
    ],
)
def test_what_differs_is_named(expected: Any, actual: Any, message: str) -> None:
    assert difference(expected, actual) == message
    assert difference(expected, actual, is_exact=False) == message


def test_rounding_is_a_difference_only_where_bits_count() -> None:
    assert difference(X, X * (1 + 1e-6)) == "output has other values"
    assert difference(X, X * (1 + 1e-6), is_exact=False) is None
