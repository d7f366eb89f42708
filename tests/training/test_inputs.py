from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanac.errors import DataError
from lanac.training.inputs import FORMS, forward_order, in_one_order

X, Y = torch.zeros(2, 3), torch.ones(2, 1)
WHERE = "example_inputs()"


class Network(nn.Module):
    """What may stand in a signature."""

    def forward(self, x: Tensor, /, y: Tensor, z: Any = None, *more: Any, k: int = 1) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("inputs", "names", "count"),
    [
        (X, (), 1),
        ((X, Y), (), 2),
        ([X, Y], (), 2),
        ({"b": Y, "a": X}, ("a", "b"), 2),
        (UserDict({"b": Y, "a": X}), ("a", "b"), 2),
    ],
)
def test_every_form_becomes_a_tuple(inputs: Any, names: tuple[str, ...], count: int) -> None:
    found = in_one_order(inputs, names, WHERE)
    assert [id(tensor) for tensor in found] == [id(X), id(Y)][:count]


@pytest.mark.parametrize(
    ("inputs", "names", "message"),
    [
        ([1, X], (), f"the inputs are int, Tensor; expected {FORMS}"),
        ((), (), f"the inputs are nothing; expected {FORMS}"),
        ({}, ("a",), f"the inputs are an empty dict; expected {FORMS}"),
        (
            X,
            ("a", "b"),
            "the inputs are a Tensor; expected a dict with 'a', 'b', as the first sample of "
            "train_data() has them",
        ),
        (
            {"a": X},
            (),
            "the inputs are a dict with 'a'; expected tensors by position, as the first sample of "
            "train_data() has them",
        ),
        (
            {"a": X, "c": Y},
            ("a", "b"),
            "the inputs are a dict with 'a', 'c'; expected a dict with 'a', 'b', as the first "
            "sample of train_data() has them",
        ),
        (
            {"a": 3},
            ("a",),
            "input 'a' is int, expected a tensor. Make it one in the Dataset, or leave it out "
            "where the network does not need it.",
        ),
    ],
)
def test_other_forms(inputs: Any, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        in_one_order(inputs, names, WHERE)
    assert str(caught.value) == f"{WHERE}: {message}"


def test_names_take_the_order_of_forward() -> None:
    class Named(nn.Module):
        def forward(self, y: Tensor, z: Any = None, *, k: int = 1) -> Tensor:
            return y

    assert forward_order(Named(), ("k", "z", "y"), WHERE) == ("y", "z", "k")
    assert forward_order(Named(), ("y",), WHERE) == ("y",)


def test_arguments_that_have_no_name() -> None:
    with pytest.raises(DataError) as caught:
        forward_order(Network(), ("x", "more"), WHERE)
    assert str(caught.value) == (
        "example_inputs(): a sample has the inputs 'x', 'more', but Network.forward takes no 'x', "
        "'more'; it takes 'y', 'z', 'k'. Remove from the samples what the network does not take, "
        "or rename it."
    )
