"""The pool: which ops are tried for which slot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lanac.compilation import Compilation, Dropped
from lanac.errors import FamilyError, PoolError
from lanac.ir import TEACHER, OpSpec, Slot
from lanac.ops.base import Family
from lanac.ops.pool import ListingError, enumerate_slot


@dataclass(frozen=True)
class EnumeratePool:
    """Lists the ops of every slot.

    A family that the user brought joins with its whole grid unless it is among the members: who
    brings an op wants it tried.

    Attributes:
        members: families and single ops, from `parse_pool`.
    """

    members: tuple[OpSpec | Family, ...]
    name = "enumerate_pool"
    needs = ("program",)
    provides = ("pool",)

    def run(self, compilation: Compilation) -> Compilation:
        program, families = compilation.need("program"), compilation.families
        named = {m.family if isinstance(m, OpSpec) else m.name for m in self.members}
        own = [item.family for name, item in families.own.items() if name not in named]
        failures: list[ListingError] = []
        fixed = compilation.restrictions.fixed
        pool = {
            slot.name: enumerate_slot(program, slot, (*self.members, *own), families, failures)
            for slot in program.slots
            if slot.name not in fixed
        }
        for failure in failures:
            if failure.family in families.own:
                raise FamilyError(f"{families.own[failure.family].where}: {failure}")
        present = {op.family for ops in pool.values() for op in ops}
        for item in families.own.values():
            if item.name not in present:
                compilation.instruments.warn(
                    f"{item.where}: {item.name} fits none of the {len(pool)} slots: enumerate() "
                    "gives no op for any of them"
                )
        failed = [Dropped(e.slot, OpSpec(e.family), str(e)) for e in failures]
        pool |= {
            slot.name: self._fixed(compilation, slot, fixed[slot.name])
            for slot in program.slots
            if slot.name in fixed
        }
        # In the order of their family's options, as in the pool.
        written = {name: pool[name][-1] for name in fixed}
        restrictions = replace(compilation.restrictions, fixed=written)
        return compilation.dropping(failed).having(pool=pool, restrictions=restrictions)

    @staticmethod
    def _fixed(compilation: Compilation, slot: Slot, op: OpSpec) -> tuple[OpSpec, ...]:
        """The teacher's op, which others are compared with, and the one that is asked for."""
        if op == TEACHER:
            return (TEACHER,)
        ops = enumerate_slot(compilation.need("program"), slot, (op,), compilation.families)
        if len(ops) < 2:
            raise PoolError(
                f"--fix {slot.name}={op}: {op.family} does not fit this slot, "
                f"{slot.input_spec} -> {slot.output_spec}"
            )
        return ops
