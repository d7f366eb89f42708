"""Prune: ops that cannot help are never trained."""

from __future__ import annotations

from dataclasses import dataclass

from lanac.compilation import Compilation
from lanac.ir import TEACHER


@dataclass(frozen=True)
class PrunePool:
    """Drops the ops that are not cheaper than their slot's own in any limited resource."""

    name = "prune_pool"
    needs = ("program", "pool", "costs")
    provides = ("pool",)

    def run(self, compilation: Compilation) -> Compilation:
        costs, pool = compilation.need("costs"), compilation.need("pool")
        fixed = compilation.restrictions.fixed
        kept = {
            slot.name: tuple(
                op
                for op in pool[slot.name]
                if op in (TEACHER, fixed.get(slot.name))
                or costs.is_cheaper(slot, op, compilation.resources)
            )
            for slot in compilation.need("program").slots
        }
        before, after = (sum(map(len, ops.values())) for ops in (pool, kept))
        compilation.instruments.say(
            f"{after} of {before} ops are worth trying: "
            f"{before - after} are not cheaper than what they would replace"
        )
        return compilation.having(pool=kept)
