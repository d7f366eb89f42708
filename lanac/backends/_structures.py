"""Classes of nested outputs (NamedTuples and dataclasses) as source of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import fx

from lanac.backends._leaves import source
from lanac.errors import BackendError

_ITEM = """
    def __getitem__(self, key):
        if isinstance(key, str):
            return getattr(self, key)
        return [value for value in vars(self).values() if value is not None][key]
"""


def is_structure(target: object) -> bool:
    """Whether a graph's target is a NamedTuple or a dataclass, which can be written down."""
    return isinstance(target, type) and (
        _is_named_tuple(target) or dataclasses.is_dataclass(target)
    )


def structures_of(graph: fx.Graph) -> dict[str, type]:
    """The NamedTuples and dataclasses that a graph makes, by name.

    Raises:
        BackendError: two have one name.
    """
    found: dict[str, type] = {}
    for node in graph.nodes:
        for cls in (node.target, *_classes_in((node.args, node.kwargs))):
            if is_structure(cls) and found.setdefault(cls.__name__, cls) is not cls:
                raise _same_name(cls)
    return found


def write_structures(structures: Iterable[type]) -> dict[str, str]:
    """The source of each class by its name.

    Only the fields are written, with their defaults: methods of a class are not.

    Raises:
        BackendError: a class makes its fields in code of its own, or two have one name.
    """
    classes = list(dict.fromkeys(structures))
    texts: dict[str, str] = {}
    for cls in classes:
        if cls.__name__ in texts:
            raise _same_name(cls)
        texts[cls.__name__] = _named_tuple(cls) if _is_named_tuple(cls) else _dataclass(cls)
    return texts


def field_defaults(target: object) -> dict[str, object]:
    """Defaults of a class's fields that can be written down; {} for anything else."""
    if not isinstance(target, type) or not is_structure(target):
        return {}
    given: dict[str, object] = getattr(target, "_field_defaults", {})
    if dataclasses.is_dataclass(target):
        given = {entry.name: entry.default for entry in dataclasses.fields(target)}
    return {name: value for name, value in given.items() if _has_source(value)}


def _has_source(value: object) -> bool:
    try:
        source(value)
    except ValueError:
        return False
    return True


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _classes_in(argument: object) -> Iterator[type]:
    """NamedTuples that stand in a node's arguments: torch.fx keeps them as they are."""
    if isinstance(argument, tuple) and hasattr(argument, "_fields"):
        yield type(argument)
    if isinstance(argument, dict):
        argument = list(argument.values())
    if isinstance(argument, (tuple, list)):
        for item in argument:
            yield from _classes_in(item)


def _named_tuple(cls: Any) -> str:
    fields = ", ".join(f'"{name}"' for name in cls._fields)
    more = ", ".join(source(value) for value in field_defaults(cls).values())
    more = f", defaults=[{more}]" if more else ""
    return f'{cls.__name__} = collections.namedtuple("{cls.__name__}", [{fields}]{more})\n'


def _dataclass(cls: Any) -> str:
    is_mapping = issubclass(cls, Mapping)
    # Hugging Face's fills its dict there; in a class of one's own it may compute anything.
    if hasattr(cls, "__post_init__") and not is_mapping:
        raise BackendError(
            f"cannot write the output class {cls.__module__}.{cls.__qualname__} as PyTorch source: "
            "its __post_init__ would be lost. Return a plain dataclass, a NamedTuple or a dict, or "
            "emit ONNX only (--emit onnx)."
        )
    defaults = field_defaults(cls)
    entries: list[str] = []
    for entry in dataclasses.fields(cls):
        # Behind a default there must be another; this one is always given.
        behind = " = None" if any("=" in line for line in entries) else ""
        default = f" = {source(defaults[entry.name])}" if entry.name in defaults else behind
        entries.append(f"    {entry.name}: object{default}")
    lines = ["@dataclasses.dataclass", f"class {cls.__name__}:"]
    lines += [f'    """What {cls.__module__}.{cls.__qualname__} holds."""', "", *entries]
    return "\n".join(lines) + "\n" + _ITEM * is_mapping


def _same_name(cls: type) -> BackendError:
    return BackendError(
        f"cannot write the network as PyTorch source: two output classes are called "
        f"{cls.__name__!r}. Rename one, or emit ONNX only (--emit onnx)."
    )
