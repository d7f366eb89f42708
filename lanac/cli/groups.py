"""Groups of options: what several commands have in common stands once, as a dataclass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, get_type_hints


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take groups of options; to typer it has them one by one.

    A parameter whose type is a dataclass stands for the fields of that dataclass: each is an option,
    with its type, help and default, in the order in which they stand. Groups may hold groups.
    """
    taken = list(signature(command, eval_str=True).parameters.values())

    @functools.wraps(command)
    def one_by_one(**values: Any) -> None:
        command(**{each.name: _value(each, values) for each in taken})

    shown = [option for each in taken for option in _options(each)]
    one_by_one.__signature__ = signature(command).replace(parameters=shown)  # type: ignore[attr-defined] # of a function
    one_by_one.__annotations__ = {option.name: option.annotation for option in shown}
    return one_by_one


def _options(parameter: Parameter) -> list[Parameter]:
    """The options that a parameter stands for."""
    members = _members(parameter)
    if members is None:
        return [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
    return [option for member in members for option in _options(member)]


def _value(parameter: Parameter, options: Mapping[str, Any]) -> Any:
    """What the command gets, made of the values of the options."""
    members = _members(parameter)
    if members is None:
        return options[parameter.name]
    return parameter.annotation(**{member.name: _value(member, options) for member in members})


def _members(parameter: Parameter) -> list[Parameter] | None:
    """The fields of a group as parameters; None where it is an option."""
    group = parameter.annotation
    if not is_dataclass(group):
        return None
    types = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(group)
    ]
