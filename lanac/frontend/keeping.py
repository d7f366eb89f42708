"""Keeping the user's model as it was while symbolic and fake tensors run through its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Puts back the attributes of all modules on leaving.

    A module that stores something in its forward (an attention map, a cache of positions) would
    otherwise keep a value without numbers, and use it in the next real run.
    """
    kept = [(vars(module), _content(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for attributes, content in kept:
            _put_back(attributes, content)


def _content(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By name the value and, where it is a plain container, a copy of what it holds."""
    return {
        name: (value, value.copy() if type(value) in (list, dict, set) else None)
        for name, value in attributes.items()
    }


def _put_back(attributes: dict[str, Any], content: dict[str, tuple[Any, Any]]) -> None:
    attributes.clear()
    for name, (value, held) in content.items():
        attributes[name] = value
        if held is None:
            continue
        value.clear()
        if isinstance(value, list):
            value.extend(held)
        else:
            value.update(held)
