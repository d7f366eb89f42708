"""Budgets: `0.5x`, `12ms`, `params=5M`, `flops=0.6x`, several joined by `+`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lanac.errors import BudgetError, unknown_name
from lanac.targets.costs import ENERGY, FLOPS, LATENCY, MEMORY, PARAMS, SIZE

_NAMES = {
    "latency": LATENCY,
    "params": PARAMS,
    "flops": FLOPS,
    "memory": MEMORY,
    "size": SIZE,
    "energy": ENERGY,
}
TITLES = {resource: name for name, resource in _NAMES.items()}
"""Resources as users call them."""

_UNITS = {
    LATENCY: {"ms": 1.0, "us": 1e-3, "s": 1e3},
    PARAMS: {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    FLOPS: {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    MEMORY: {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
    SIZE: {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
    ENERGY: {"mj": 1.0, "uj": 1e-3, "j": 1e3},
}
_LIMIT = re.compile(r"(?:(?P<name>[a-z_]+)=)?(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>[a-z]*)")
_FORMS = "expected a form such as 0.5x, 12ms, params=5M, flops=0.6x or 0.5x+params=5M"


@dataclass(frozen=True)
class Limit:
    """An upper limit on one resource.

    Attributes:
        resource: name of the resource.
        value: the limit, in the resource's unit, or a share of the teacher's cost.
        relative: whether `value` is a share of the teacher's cost.
        text: as the user wrote it.
    """

    resource: str
    value: float
    relative: bool
    text: str


@dataclass(frozen=True)
class Budget:
    """Upper limits that a student meets all at once."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return "+".join(limit.text for limit in self.limits)

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(limit.resource for limit in self.limits)

    def absolute(self, teacher: Mapping[str, float]) -> dict[str, float]:
        """The limits in units of their resources.

        Raises:
            BudgetError: a limit is not below what the teacher costs already.
        """
        found: dict[str, float] = {}
        for limit in self.limits:
            own = teacher[limit.resource]
            value = limit.value * own if limit.relative else limit.value
            if value >= own:
                raise BudgetError(
                    f"budget {limit.text!r}: the teacher already costs only "
                    f"{format_cost(limit.resource, own)}; give a limit below that"
                )
            found[limit.resource] = value
        return found


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """Reads `--budget`: one budget per student, separated by commas.

    Raises:
        BudgetError: malformed, zero, or a share of one or more.
    """
    budgets = tuple(_parse_budget(part) for part in text.split(",") if part.strip())
    if not budgets:
        raise BudgetError(f"budget {text!r} is empty; {_FORMS}")
    if len({str(budget) for budget in budgets}) < len(budgets):
        raise BudgetError(f"budget {text!r} names one budget twice")
    return budgets


def _parse_budget(text: str) -> Budget:
    limits = tuple(_parse_limit(part) for part in text.split("+"))
    resources = [limit.resource for limit in limits]
    for resource in resources:
        if resources.count(resource) > 1:
            raise BudgetError(f"budget {text.strip()!r} limits {resource} twice")
    return Budget(limits)


def _parse_limit(text: str) -> Limit:
    shown = text.strip()
    match = _LIMIT.fullmatch(shown.lower())
    if match is None:
        raise BudgetError(f"budget {shown!r} is malformed; {_FORMS}")
    name, number, unit = match["name"] or "latency", float(match["number"]), match["unit"]
    if name not in _NAMES:
        raise BudgetError(f"budget {shown!r}: {unknown_name('resource', name, _NAMES)}")
    if number == 0:
        raise BudgetError(f"budget {shown!r} is zero, which no network meets; {_FORMS}")
    resource = _NAMES[name]
    if unit == "x":
        if number >= 1:
            raise BudgetError(
                f"budget {shown!r} is not below the teacher's own cost (1x); "
                "give a share between 0 and 1"
            )
        return Limit(resource, number, True, shown)
    if unit not in _UNITS[resource]:
        units = ", ".join(filter(None, _UNITS[resource]))
        raise BudgetError(f"budget {shown!r}: unknown unit {unit!r} for {name}; known: x, {units}")
    return Limit(resource, number * _UNITS[resource][unit], False, shown)


def format_cost(resource: str, value: float) -> str:
    """A cost with its unit: `1.23 ms`, `5.30 M params`."""
    if resource == LATENCY:
        return f"{value:.3f} ms"
    if resource == ENERGY:
        return f"{value:.3f} mJ"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {letter}{_suffix(resource)}"
    return f"{value:.0f} {_suffix(resource).strip()}"


def _suffix(resource: str) -> str:
    return {PARAMS: " params", FLOPS: "FLOP", MEMORY: "B", SIZE: "B"}[resource]
