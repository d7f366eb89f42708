"""Inputs as users give them: by position, or by the names of the arguments of `forward`.

From here on they are a tuple of tensors in one fixed order. Only the teacher itself is called by
name; its graph and whatever is made of it take their inputs by position.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lanac.errors import DataError

FORMS = "a tensor, a tuple of tensors, or a dict of tensors by the names of forward's arguments"


def forward_order(model: nn.Module, given: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The given names in the order of the model's `forward`.

    Args:
        model: the teacher.
        given: the keys of a sample's inputs.
        where: whose they are, for messages: "train_data()".

    Raises:
        DataError: `forward` does not take one of them, or needs more.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {entry.name: entry for entry in parameters if entry.kind in by_name}
    forward = f"{type(model).__name__}.forward"
    unknown = [name for name in given if name not in taken]
    if unknown:
        raise DataError(
            f"{where}: a sample has the inputs {_listed(given)}, but {forward} takes no "
            f"{_listed(unknown)}; it takes {_listed(list(taken)) or 'nothing by name'}. Remove "
            "from the samples what the network does not take, or rename it."
        )
    needed = [name for name, entry in taken.items() if entry.default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in given]
    if missing:
        raise DataError(
            f"{where}: a sample has the inputs {_listed(given)}, but {forward} also needs "
            f"{_listed(missing)}. Add to the samples what is missing."
        )
    return tuple(name for name in taken if name in given)


def in_one_order(inputs: Any, names: tuple[str, ...], where: str) -> tuple[Tensor, ...]:
    """Inputs as a tuple of tensors, by the given names where they are a dict.

    Args:
        inputs: a tensor, a tuple or list of tensors, or a dict of tensors.
        names: the order of a dict; () where inputs are given by position.
        where: whose they are, for messages: "example_inputs()".

    Raises:
        DataError: they are of another form, or not as in other samples.
    """
    if isinstance(inputs, Mapping) or names:
        return _by_name(inputs, names, where)
    values = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if not values or not all(isinstance(value, Tensor) for value in values):
        kinds = ", ".join(_kind(value) for value in values) or "nothing"
        raise DataError(f"{where}: the inputs are {kinds}; expected {FORMS}")
    return values


def _by_name(inputs: Any, names: tuple[str, ...], where: str) -> tuple[Tensor, ...]:
    if isinstance(inputs, Mapping) and not inputs:
        raise DataError(f"{where}: the inputs are an empty dict; expected {FORMS}")
    expected = f"a dict with {_listed(names)}" if names else "tensors by position"
    if not isinstance(inputs, Mapping) or set(inputs) != set(names):
        is_dict = isinstance(inputs, Mapping)
        got = f"a dict with {_listed(inputs)}" if is_dict else f"a {_kind(inputs)}"
        raise DataError(
            f"{where}: the inputs are {got}; expected {expected}, as the first sample of "
            "train_data() has them"
        )
    for name in names:
        if not isinstance(inputs[name], Tensor):
            raise DataError(
                f"{where}: input {name!r} is {_kind(inputs[name])}, expected a tensor. Make it "
                "one in the Dataset, or leave it out where the network does not need it."
            )
    return tuple(inputs[name] for name in names)


def _kind(value: Any) -> str:
    return type(value).__name__


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
