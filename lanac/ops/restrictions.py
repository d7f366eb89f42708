"""What a user asks of every plan, beside the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from lanac.errors import SelectionError, unknown_name
from lanac.ir import TEACHER, OpSpec, Program, parse_op


@dataclass(frozen=True)
class Restrictions:
    """Restrictions on plans.

    Attributes:
        fixed: the op that a slot takes, by slot name; the teacher's own where it stays.
        max_changed: at most so many slots take another op than the teacher's; None for any number.
    """

    fixed: Mapping[str, OpSpec] = field(default_factory=dict)
    max_changed: int | None = None

    @classmethod
    def of(
        cls,
        program: Program,
        fix: Sequence[str] = (),
        keep: Sequence[str] = (),
        max_changed: int | None = None,
    ) -> Restrictions:
        """Reads what the user gave.

        Args:
            program: whose slots are meant.
            fix: `SLOT=OP` each.
            keep: glob patterns of slot names.
            max_changed: see the attribute.

        Raises:
            SelectionError: no such slot, not of that form, or two that contradict each other.
        """
        names = [slot.name for slot in program.slots]
        fixed: dict[str, OpSpec] = {}
        for text in fix:
            name, is_there, op = (part.strip() for part in text.partition("="))
            if not is_there or not op:
                raise SelectionError(f"--fix {text!r}: expected SLOT=OP, as in {names[0]}=teacher")
            if name not in names:
                raise SelectionError(f"--fix {text!r}: {unknown_name('slot', name, names)}")
            _set(fixed, name, parse_op(op), f"--fix {text!r}")
        for pattern in keep:
            fitting = [name for name in names if fnmatchcase(name, pattern)]
            if not fitting:
                raise SelectionError(f"--keep {pattern!r}: {unknown_name('slot', pattern, names)}")
            for name in fitting:
                _set(fixed, name, TEACHER, f"--keep {pattern!r}")
        changed = [name for name, op in fixed.items() if op != TEACHER]
        if max_changed is not None and len(changed) > max(max_changed, 0):
            raise SelectionError(
                f"--max-changed {max_changed}: --fix changes {len(changed)} slots already "
                f"({', '.join(changed)})"
            )
        if max_changed is not None and max_changed < 0:
            raise SelectionError(f"--max-changed {max_changed}: expected 0 or more")
        return cls(fixed, max_changed)


def _set(fixed: dict[str, OpSpec], name: str, op: OpSpec, option: str) -> None:
    if fixed.setdefault(name, op) != op:
        raise SelectionError(f"{option}: slot {name!r} is set to {fixed[name]} already")
