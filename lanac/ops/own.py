"""Op families that a user brings: found in a file or handed over, and refused where they are wrong."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from lanac.errors import FamilyError
from lanac.ops.base import FAMILIES, Family
from lanac.ops.families import Families, OwnFamily
from lanac.ops.fingerprint import file_of, fingerprint
from lanac.ops.pool import NAMED_POOLS

EXAMPLE = """an op file needs at least

    from lanac import Family, OpSpec
    from torch import nn

    class Pointwise(Family):
        name = "pointwise"

        def enumerate(self, view):  # its ops for a slot; none where it does not fit
            return [OpSpec.of(self.name)] if view.stride else []

        def build(self, op, view):  # a torch.nn.Module
            return nn.Conv2d(view.input_spec.channels, view.output_spec.channels, 1, view.stride)"""


def families_in(module: ModuleType, path: Path) -> list[Family]:
    """The op families of a file that was executed: its objects, and its classes without an object.

    A class without a name that another one of the file derives from is no family.

    Raises:
        FamilyError: there is none, or a class cannot be made into an object.
    """
    values = list({id(value): value for value in vars(module).values()}.values())
    objects = [value for value in values if _is_users_object(value)]
    classes = [value for value in values if _is_class_of(value, module)]
    made = {type(value) for value in objects}
    bases = {base for kind in classes for base in kind.__mro__[1:] if not hasattr(base, "name")}
    found = [*objects, *(_made(kind) for kind in classes if kind not in made | bases)]
    if not found:
        raise FamilyError(f"{path} defines no op family; {EXAMPLE}")
    return found


def own_families(ops: Iterable[Family | type[Family]] | Families) -> Families:
    """All families of a run that brings these; what it has given before comes back as it is.

    Raises:
        FamilyError: one of them is no family, or its name is taken.
    """
    if isinstance(ops, Families):
        return ops
    if isinstance(ops, (str, bytes)) or not isinstance(ops, Iterable):
        raise FamilyError(
            f"ops is {ops!r}; expected a list of op families (a file with families: --ops FILE)"
        )
    own: dict[str, OwnFamily] = {}
    for item in ops:
        if not _looks_like_a_family(item if isinstance(item, type) else type(item)):
            raise FamilyError(
                f"ops: {item!r} is no op family; expected an object or a class with a name, "
                "enumerate(view) and build(op, view)"
            )
        family: Family = _made(item) if isinstance(item, type) else item
        where = described(type(family))
        _check(family, where)
        taken = _owner(family, own)
        if taken is not None:
            raise FamilyError(
                f"{where}: the name {family.name!r} is taken by {taken}; choose another name"
            )
        own[family.name] = OwnFamily(family, where, fingerprint(family))
    return Families(own.values())


def described(kind: type) -> str:
    """File and class, for messages: `my_ops.py, class Blur`."""
    file = file_of(sys.modules.get(kind.__module__))
    if file is None:
        return f"class {kind.__qualname__}"
    near = os.path.relpath(file)
    return f"{file if near.startswith('..') else near}, class {kind.__qualname__}"


def _is_users_object(value: object) -> bool:
    kind = type(value)
    is_lanacs = kind.__module__.partition(".")[0] == "lanac"
    return not isinstance(value, type) and not is_lanacs and _looks_like_a_family(kind)


def _is_class_of(value: object, module: ModuleType) -> bool:
    if not isinstance(value, type) or value.__module__ != module.__name__:
        return False
    return _looks_like_a_family(value)


def _looks_like_a_family(kind: type) -> bool:
    methods = (getattr(kind, name, None) for name in ("enumerate", "build"))
    return Family in kind.__mro__ or all(map(callable, methods))


def _made(kind: type[Family]) -> Family:
    """An object of the class."""
    where = described(kind)
    parameters = inspect.signature(kind).parameters.values()
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise FamilyError(
            f"{where}: its constructor needs {', '.join(needed)}; give an object instead of the "
            f"class, or define one in the file: FAMILY = {kind.__name__}(...)"
        )
    try:
        return kind()
    except Exception as error:
        raise FamilyError(
            f"{where}: its constructor fails: {type(error).__name__}: {error}"
        ) from error


def _check(family: Family, where: str) -> None:
    name: object = getattr(family, "name", None)
    if name is None:
        raise FamilyError(f"{where} has no name; expected one, such as name = 'blur', for --pool")
    if not isinstance(name, str) or re.fullmatch(r"[A-Za-z_]\w*", name) is None:
        raise FamilyError(
            f"{where}: the name is {name!r}; expected letters, digits and _, such as 'blur'"
        )
    for method, arguments in (("enumerate", "view"), ("build", "op, view")):
        own = getattr(type(family), method, None)
        if not callable(own) or own is getattr(Family, method):
            raise FamilyError(f"{where} has no {method}({arguments}); {EXAMPLE}")


def _owner(family: Family, own: dict[str, OwnFamily]) -> str | None:
    """Who has the name already; None where it is free."""
    name = family.name
    if name in own:
        return own[name].where
    if name in NAMED_POOLS:
        return f"lanac's pool {name!r}"
    if name not in FAMILIES.names():
        return None
    kind = type(FAMILIES.get(name))
    package = kind.__module__.partition(".")[0]
    return "lanac's own family" if package == "lanac" else f"the family of the package {package!r}"
