"""Checks the ops of families that are not lanac's, before anything is measured or trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from lanac.backends.pytorch import write_source
from lanac.compilation import Compilation, Dropped
from lanac.errors import BackendError, FamilyError, PoolError
from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.build import build_op, check_op


@dataclass(frozen=True)
class CheckOps:
    """Builds and tries every op of a family that the user or another package brought.

    An op that fails for a slot is dropped and named. One that the user brought to this run and that
    works in no slot is a mistake in it, and ends the run.
    """

    name = "check_ops"
    needs = ("program", "pool")
    provides = ("pool",)

    def run(self, compilation: Compilation) -> Compilation:
        reasons: dict[OpSpec, dict[str, str]] = defaultdict(dict)
        pool, failed = {}, []
        for slot in compilation.need("program").slots:
            view = SlotView.of(compilation.need("program"), slot)
            working = []
            for op in compilation.need("pool")[slot.name]:
                reason = _reason_against(compilation, op, view)
                if reason is None:
                    working.append(op)
                else:
                    reasons[op][slot.name] = reason
                    failed.append(Dropped(slot.name, op, reason))
            pool[slot.name] = tuple(working)
        for op, by_slot in reasons.items():
            if op.family in compilation.families.own and not any(
                op in ops for ops in pool.values()
            ):
                raise FamilyError(_refusal(compilation, op, by_slot))
        return compilation.dropping(failed).having(pool=pool)


def _reason_against(compilation: Compilation, op: OpSpec, view: SlotView) -> str | None:
    """Why an op is not fit for a slot; None where it is, or where its family is lanac's."""
    families = compilation.families
    if families.is_lanacs(op.family):
        return None
    try:
        module = build_op(op, view, compilation.seed, families)
        write_source(fx.GraphModule({"op": module}, _calling("op")))
        check_op(op, module, view)
    except PoolError as error:
        return str(error)
    except BackendError as error:
        return f"op {op} in slot {view.slot.name!r} cannot be written as source: {error}"
    return None


def _calling(name: str) -> fx.Graph:
    """A network of one module."""
    graph = fx.Graph()
    graph.output(graph.call_module(name, (graph.placeholder("x"),)))
    return graph


def _refusal(compilation: Compilation, op: OpSpec, by_slot: Mapping[str, str]) -> str:
    where = compilation.families.own[op.family].where
    (first, *others) = by_slot.values()
    message = f"{where}: {first}"
    if others:
        message += f". It works in none of the {len(by_slot)} slots that enumerate() gives it for"
    return message
