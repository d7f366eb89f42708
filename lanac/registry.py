"""Named things (families, devices, backends, passes) found by their name.

A registry is filled from the modules of one package, from entry points of other packages, and
by passing objects in. A name that is taken or unknown raises; nothing is overwritten in silence.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from lanac.errors import LanacError, unknown_name


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what is registered, for messages: "op family".
        package: the package each module of which defines one object.
        attribute: the module-level name of that object.
        group: the entry point group through which other packages add theirs.
        error: the class of error raised for a taken or unknown name.
    """

    def __init__(
        self, kind: str, package: str, attribute: str, group: str, error: type[LanacError]
    ) -> None:
        self.kind = kind
        self._package, self._attribute, self._group = package, attribute, group
        self._error = error
        self._items: dict[str, T] = {}
        self._filled = False

    def add(self, item: T) -> T:
        """Registers `item`; raises where its name is taken by another object."""
        if self._items.get(item.name, item) is not item:
            raise self._error(
                f"{self.kind} {item.name!r} is registered twice: {self._items[item.name]!r} and "
                f"{item!r}. Give one of them another name."
            )
        self._items[item.name] = item
        return item

    def get(self, name: str) -> T:
        """The object of that name; raises with the nearest known names."""
        self._fill()
        if name not in self._items:
            raise self._error(unknown_name(self.kind, name, self._items))
        return self._items[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._fill()
        return tuple(sorted(self._items))

    def __iter__(self) -> Iterator[T]:
        self._fill()
        return iter([self._items[name] for name in sorted(self._items)])

    def having(self, items: Iterable[T]) -> Registry[T]:
        """A registry of the same things and these; this one stays as it is.

        Raises:
            LanacError: a name is taken.
        """
        self._fill()
        other: Registry[T] = Registry(
            self.kind, self._package, self._attribute, self._group, self._error
        )
        other._items, other._filled = dict(self._items), True
        for item in items:
            other.add(item)
        return other

    def _fill(self) -> None:
        if self._filled:
            return
        package = importlib.import_module(self._package)
        for info in pkgutil.iter_modules(package.__path__):
            module: Any = importlib.import_module(f"{self._package}.{info.name}")
            item = getattr(module, self._attribute, None)
            if item is not None:
                self.add(item)
        for entry in entry_points(group=self._group):
            self.add(self._loaded(entry))
        self._filled = True  # last: after a failure the next call fails alike, not half filled

    def _loaded(self, entry: EntryPoint) -> T:
        """What another package offers: an object with a name, or a class that makes one."""
        package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "a package"
        try:
            found: Any = entry.load()
            item: T = found() if isinstance(found, type) else found
        except Exception as error:
            raise self._error(
                f"{self.kind} {entry.name!r} of {package} cannot be loaded: "
                f"{type(error).__name__}: {error}. Mend that package, or remove it."
            ) from error
        if not isinstance(getattr(item, "name", None), str):
            raise self._error(
                f"{self.kind} {entry.name!r} of {package} is {entry.value}, which has no name; "
                "expected an object with a name. Mend that package, or remove it."
            )
        return item
