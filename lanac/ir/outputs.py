"""The tensors of nested outputs: in a fixed order, each with a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def named_tensors(outputs: Any) -> list[tuple[str, Tensor]]:
    """The tensors of nested outputs with their names, depth first.

    Outputs are tensors, tuples, lists, NamedTuples, dicts and dataclasses of them; a dataclass that
    is a dict too, as Hugging Face's, counts as a dict. What is no tensor is left out.

    Args:
        outputs: what a network returned.

    Returns:
        Names are keys, fields and places joined by dots, such as `boxes` or `features.0`; one that
        starts with a digit gets `output_` in front. A tensor alone is called `output`.
    """
    return [(_readable(path), tensor) for path, tensor in _walk(outputs, ())]


def flatten_tensors(outputs: Any) -> list[Tensor]:
    """The tensors of nested outputs, in the order of `named_tensors`."""
    return [tensor for _, tensor in named_tensors(outputs)]


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, item in _items(value):
        yield from _walk(item, (*path, str(key)))


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key, field or place; nothing where it is no container."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value))


def _readable(path: tuple[str, ...]) -> str:
    name = ".".join(path)
    return f"output_{name}" if name[:1].isdigit() else name or "output"
