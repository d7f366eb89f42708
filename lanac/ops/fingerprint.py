"""Fingerprints of op families that are not lanac's: the same name may stand for another op."""

from __future__ import annotations

import hashlib
import secrets
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_NOT_THE_USERS = (
    *(
        Path(sysconfig.get_path(name)).resolve()
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    Path(__file__).resolve().parents[1],
)


def fingerprint(family: object) -> str:
    """A hash of a family's source and of what its instance holds.

    The source is the file of its class, and every file of the user's own (or of the same package)
    that this one takes something from. A class without a file, as in a notebook, gets another
    fingerprint each time: nobody knows whether its source is what it was.
    """
    files = source_files(type(family))
    if not files:
        return secrets.token_hex(8)
    digest = hashlib.sha256(type(family).__qualname__.encode())
    for text in sorted(path.read_bytes() for path in files):
        digest.update(hashlib.sha256(text).digest())
    digest.update("".join(_state(family, frozenset())).encode())
    return digest.hexdigest()[:16]


def source_files(kind: type) -> set[Path]:
    """The files that a class is written in; empty where its own is not known."""
    found: set[Path] = set()
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__)
        file = file_of(module)
        if base is kind and file is None:
            return set()
        if module is not None and file is not None and (base is kind or _is_users(file)):
            _follow(module, file, found)
    return found


def file_of(module: ModuleType | None) -> Path | None:
    """The Python file of a module, where it has one."""
    name = getattr(module, "__file__", None)
    path = Path(name).resolve() if isinstance(name, str) and name.endswith(".py") else None
    return path if path is not None and path.is_file() else None


def _follow(module: ModuleType, file: Path, found: set[Path]) -> None:
    """Adds the file of a module and those of the modules that it takes something from."""
    if file in found:
        return
    found.add(file)
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else _text(value, "__module__")
        used = sys.modules.get(name)
        other = file_of(used)
        if used is None or other is None:
            continue
        if _is_users(other) or _package(used) == _package(module):
            _follow(used, other, found)


def _package(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _text(value: object, attribute: str) -> str:
    found = getattr(value, attribute, None)
    return found if isinstance(found, str) else ""


def _is_users(file: Path) -> bool:
    """Whether a file is neither installed nor lanac's."""
    return not any(file.is_relative_to(folder) for folder in _NOT_THE_USERS)


def _state(value: Any, inside: frozenset[int]) -> Iterator[str]:
    """Text of a value that is the same in every process: never an address.

    What cannot be looked into gets another text each time.
    """
    yield f"{type(value).__module__}.{type(value).__qualname__}("
    if id(value) not in inside:
        inside |= {id(value)}
        parts = _parts(value)
        if parts is None:
            text = repr(value)
            yield secrets.token_hex(8) if " at 0x" in text else text
        else:
            for part in parts:
                yield from _state(part, inside)
    yield ");"


def _parts(value: Any) -> list[Any] | None:
    """What a value is made of; None where its text says it all."""
    if isinstance(value, (Tensor, np.ndarray)):
        array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
        return [str(value.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, nn.Module):
        return [repr(value), dict(value.state_dict())]
    if isinstance(value, Mapping):
        return [part for name in sorted(value, key=str) for part in (str(name), value[name])]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted("".join(_state(item, frozenset())) for item in value)
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, (type, ModuleType)):
        return [_text(value, "__module__"), value.__name__]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__module__, value.__code__.co_code, value.__defaults__, cells]
    slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    if not slots and not hasattr(value, "__dict__"):
        return None
    fields = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return [fields | getattr(value, "__dict__", {})]
