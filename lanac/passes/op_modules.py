"""The ops of a pool as modules, each as it will run, built when it is needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from torch import nn

from lanac.compilation import Compilation
from lanac.errors import PoolError
from lanac.ir import TEACHER, OpSpec, Program, Slot, named_tensors, signature
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.passes.op_outlines import OpOutlines


class OpModules:
    """Builds the ops of a program's slots; keeps the last ones as long as they are small.

    The ops of a large pool hold gigabytes of weights together, and what counts and measures them
    needs few at a time. An op follows from the seed: it is the same whenever it is built.

    Args:
        compilation: with a program.
        kept_bytes: how many bytes of weights are kept.
    """

    def __init__(self, compilation: Compilation, kept_bytes: int = 1 << 29) -> None:
        self._compilation, self._kept_bytes = compilation, kept_bytes
        program: Program = compilation.need("program")
        self._views = {slot.name: SlotView.of(program, slot) for slot in program.slots}
        self._outlines = OpOutlines(program, compilation.families, self.get)
        self._kept: OrderedDict[tuple[str, OpSpec], tuple[nn.Module, int]] = OrderedDict()
        self._bytes = 0
        self._signatures: dict[Hashable, str] = {}

    def get(self, slot: Slot, op: OpSpec) -> nn.Module:
        """The op as it will run: folded, in eval mode.

        Raises:
            PoolError: it cannot be built for this slot.
        """
        if op == TEACHER:
            return self._views[slot.name].teacher
        place = slot.name, op
        if place not in self._kept:
            module = self._build(slot, op)
            self._kept[place] = module, _bytes(module)
            self._bytes += self._kept[place][1]
        self._kept.move_to_end(place)
        while self._bytes > self._kept_bytes and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        return self._kept[place][0]

    def outline(self, slot: Slot, op: OpSpec) -> nn.Module:
        """The op as it will run; without weights where it takes nothing from the teacher's.

        Raises:
            PoolError: it cannot be built for this slot.
        """
        return self.get(slot, op) if op == TEACHER else self._outlines.get(slot, op)

    def key(self, slot: Slot, op: OpSpec) -> Hashable:
        """Equal for ops of which one outline, or one module, serves all.

        Raises:
            PoolError: it cannot be built for this slot.
        """
        return (slot.name, op) if op == TEACHER else self._outlines.key(slot, op)

    def signature(self, slot: Slot, op: OpSpec) -> str:
        """A text that is equal for ops that do the same work on one sample of the same shape."""
        key = self.key(slot, op)
        if key not in self._signatures:
            spec = slot.input_spec.with_batch(1)
            self._signatures[key] = signature(self.outline(slot, op), spec)
        return self._signatures[key]

    def _build(self, slot: Slot, op: OpSpec) -> nn.Module:
        compilation = self._compilation
        module = build_op(op, self._views[slot.name], compilation.seed, compilation.families)
        try:
            return folded(module)
        except PoolError as error:
            raise PoolError(f"op {op} of slot {slot.name!r}: {error}") from error


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for _, value in named_tensors(module.state_dict()))
