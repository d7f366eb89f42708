"""The ops of a pool as outlines: modules of the right structure without weights, built in a moment.

What counts or predicts costs needs shapes alone. A family builds its ops on the meta device, where nothing is
drawn and nothing takes memory; and an op that takes nothing from the teacher's weights is the same for
all slots whose own ops are alike, such as the repeated blocks of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import nn

from lanac.ir import MetaMode, OpSpec, Program, Slot, signature
from lanac.ops.base import SlotView
from lanac.ops.build import build_op, checked_output
from lanac.ops.families import INSTALLED, Families
from lanac.ops.folding import folded, is_foldable


class OpOutlines:
    """Builds outlines of a program's ops, equal ones once.

    Args:
        program: the teacher and its slots.
        families: of the ops.
        real: gives the ops that have to be built with weights, folded; default: they are built anew.
    """

    def __init__(
        self,
        program: Program,
        families: Families = INSTALLED,
        real: Callable[[Slot, OpSpec], nn.Module] | None = None,
    ) -> None:
        self._views = {slot.name: SlotView.of(program, slot) for slot in program.slots}
        self._families, self._real = families, real or self._build_real
        self._signatures: dict[str, str] = {}
        self._built: dict[Hashable, nn.Module] = {}
        self._bound: set[tuple[str, OpSpec]] = set()

    def key(self, slot: Slot, op: OpSpec) -> Hashable:
        """Equal for ops that run the same kernels.

        Raises:
            PoolError: the op cannot be built for this slot.
        """
        shared = self._signature(slot), op
        if shared in self._bound:
            return slot.name, op
        if shared not in self._built:
            module = self._build(slot, op)
            if not is_outline(module):
                self._bound.add(shared)
                return slot.name, op
            self._built[shared] = module
        return shared

    def get(self, slot: Slot, op: OpSpec) -> nn.Module:
        """The op as it will run, folded and in eval mode; its weights may be on the meta device.

        Raises:
            PoolError: the op cannot be built for this slot.
        """
        found = self._built.get(self.key(slot, op))
        # Those with weights are not kept: together they take gigabytes.
        return self._real(slot, op) if found is None else found

    def _signature(self, slot: Slot) -> str:
        if slot.name not in self._signatures:
            spec = slot.input_spec.with_batch(1)
            self._signatures[slot.name] = signature(self._views[slot.name].teacher, spec)
        return self._signatures[slot.name]

    def _build(self, slot: Slot, op: OpSpec) -> nn.Module:
        view = self._views[slot.name]
        spec = slot.input_spec.with_batch(2)
        try:
            with torch.device("meta"):
                module = self._families.get(op.family).build(op, view).eval()
                with MetaMode():
                    checked_output(op, module, view, torch.empty(spec.shape, dtype=spec.dtype))
            return folded(module) if is_foldable(module) else module
        except Exception:  # families may compute with weights, and then anything can happen on meta
            return self._real(slot, op)

    def _build_real(self, slot: Slot, op: OpSpec) -> nn.Module:
        return folded(build_op(op, self._views[slot.name], 0, self._families))


def is_outline(module: nn.Module) -> bool:
    """Whether none of its values takes memory."""
    return all(value.device.type == "meta" for value in module.state_dict().values())
