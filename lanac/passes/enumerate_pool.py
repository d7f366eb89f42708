"""The pool: which ops are tried for which slot."""

from __future__ import annotations

from dataclasses import dataclass

from lanac.compilation import Compilation
from lanac.ir import OpSpec
from lanac.ops.base import Family
from lanac.ops.pool import enumerate_slot


@dataclass(frozen=True)
class EnumeratePool:
    """Lists the ops of every slot.

    Attributes:
        members: families and single ops, from `parse_pool`.
    """

    members: tuple[OpSpec | Family, ...]
    name = "enumerate_pool"
    needs = ("program",)
    provides = ("pool",)

    def run(self, compilation: Compilation) -> Compilation:
        program = compilation.need("program")
        pool = {slot.name: enumerate_slot(program, slot, self.members) for slot in program.slots}
        return compilation.having(pool=pool)
