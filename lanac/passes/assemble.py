"""Putting networks together from distilled ops; shared by the passes that need whole networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import fx, nn

from lanac.compilation import Compilation, TrainedOp
from lanac.errors import PoolError
from lanac.ir import TEACHER, OpSpec, Program, Slot
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.pool import needs_distillation

DISTILLED = "distilled"
"""Kind under which the workspace holds the weights of distilled ops."""


def load_op(compilation: Compilation, slot: Slot, op: OpSpec) -> nn.Module:
    """An op with its distilled weights, in eval mode, on the CPU.

    The teacher's op is a copy: whoever trains it does not change the teacher.
    """
    view = SlotView.of(compilation.need("program"), slot)
    module = build_op(op, view, compilation.seed, compilation.families)
    if needs_distillation(op):
        trained: TrainedOp = compilation.need("weights")[slot.name][op]
        stored = compilation.workspace.get(DISTILLED, trained.key)
        if stored is None:
            raise PoolError(
                f"the weights of op {op} of slot {slot.name!r} are damaged in the workspace; "
                "start again: they are trained anew"
            )
        module.load_state_dict(dict(stored.tensors))
    return module.eval()


def assemble_student(compilation: Compilation, ops: Sequence[OpSpec]) -> fx.GraphModule:
    """The teacher with one op per slot, in eval mode, on the CPU; shares nothing with the teacher."""
    program: Program = compilation.need("program")
    modules = {
        slot.name: load_op(compilation, slot, op)
        for slot, op in zip(program.slots, ops, strict=True)
        if op != TEACHER
    }
    return copy.deepcopy(program.rewrite(modules)).eval()
