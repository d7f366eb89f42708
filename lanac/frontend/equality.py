"""Whether two runs gave the same: tensors bit for bit, and everything around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def difference(expected: Any, actual: Any, is_exact: bool = True) -> str | None:
    """Where two nested outputs differ first, and how; None where they do not.

    NaN equals NaN: a model may compute it. Mappings of any kind equal a plain dict of the same items,
    to which torch.fx turns them.

    Args:
        expected: what the model computed.
        actual: what something else computed.
        is_exact: bit for bit; else as close as operators are that were taken apart.
    """
    return next(_differences(expected, actual, is_exact, "output"), None)


def _differences(a: Any, b: Any, is_exact: bool, where: str) -> Iterator[str]:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        problem = _tensors(a, b, is_exact)
        if problem is not None:
            yield f"{where} {problem}"
    elif _kind(a) is not _kind(b):
        yield f"{where} is a {type(b).__name__}, expected a {type(a).__name__}"
    elif (ours := _items(a)) is not None and (theirs := _items(b)) is not None:
        if list(ours) != list(theirs):
            yield f"{where} holds {list(theirs)}, expected {list(ours)}"
            return
        for key, value in ours.items():
            yield from _differences(value, theirs[key], is_exact, f"{where}[{key!r}]")
    elif not _equal(a, b):
        yield f"{where} is {b!r}, expected {a!r}"


def _tensors(a: Tensor, b: Tensor, is_exact: bool) -> str | None:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        got, expected = (f"{tuple(t.shape)} {t.dtype}" for t in (b, a))
        return f"is {got}, expected {expected}"
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    if torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
        return None
    scale = float(a.detach().abs().nan_to_num(0, 0, 0).max())
    is_close = torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
    return None if is_close and not is_exact else "has other values"


def _kind(value: Any) -> type:
    is_plain = isinstance(value, Mapping) and not dataclasses.is_dataclass(value)
    return dict if is_plain else type(value)


def _items(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and a != a:
        return isinstance(b, float) and b != b
    return bool(a == b)
