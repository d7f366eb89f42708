"""Ops and plans as plain values, with a text form that parses back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lanac.errors import PoolError

OptionValue = int | float | str

_TEXT = re.compile(r"(?P<family>[A-Za-z_]\w*)(?:\((?P<options>[^()]*)\))?")


@dataclass(frozen=True, order=True)
class OpSpec:
    """What fills a slot: a family and its options, such as `efn(e=3,k=5,se=0.04)`.

    Attributes:
        family: name of the family.
        options: pairs of option name and value, in the family's own order.
    """

    family: str
    options: tuple[tuple[str, OptionValue], ...] = ()

    @classmethod
    def of(cls, family: str, **options: OptionValue) -> OpSpec:
        return cls(family, tuple(options.items()))

    def __getitem__(self, option: str) -> OptionValue:
        return dict(self.options)[option]

    def number(self, option: str) -> float:
        """The value of a numeric option."""
        return float(self[option])

    def __str__(self) -> str:
        if not self.options:
            return self.family
        return f"{self.family}({','.join(f'{name}={value}' for name, value in self.options)})"


TEACHER = OpSpec("teacher")
IDENTITY = OpSpec("identity")


def parse_op(text: str) -> OpSpec:
    """Reads what `str(OpSpec)` writes; raises PoolError for anything else."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise PoolError(f"op {text!r}: expected FAMILY or FAMILY(option=value,...)")
    options = []
    for part in filter(None, (match["options"] or "").split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise PoolError(f"op {text!r}: expected option=value, got {part!r}")
        options.append((name.strip(), _parse_value(value.strip())))
    return OpSpec(match["family"], tuple(options))


def _parse_value(text: str) -> OptionValue:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclass(frozen=True)
class Plan:
    """One op per slot, with what is predicted of it.

    Attributes:
        ops: one op per slot, in the order of the program's slots.
        score: predicted change of the teacher's loss (paper Eq. 3), the sum of the ops' scores.
        costs: predicted total by resource (latency_ms, params, flops, memory_bytes).
        gap: 0 where this plan is proven best of its step, else the proven relative gap.
        refined_score: the same change by scores around a plan that was measured; None where the plan
            was selected by those in the teacher.
    """

    ops: tuple[OpSpec, ...]
    score: float
    costs: Mapping[str, float] = field(default_factory=dict)
    gap: float = 0.0
    refined_score: float | None = None

    @property
    def predicted(self) -> float:
        """The change of the loss that the plan was selected by."""
        return self.score if self.refined_score is None else self.refined_score

    def changed(self) -> int:
        """How many slots do not keep the teacher's op."""
        return sum(op != TEACHER for op in self.ops)
