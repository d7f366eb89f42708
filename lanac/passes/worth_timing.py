"""Which ops are worth timing: those that may turn out cheaper than what they would replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lanac.compilation import Compilation
from lanac.ir import TEACHER, OpSpec, TensorSpec
from lanac.passes.time_parts import Part, PartTimer
from lanac.targets import FLOPS, MEMORY, PARAMS, Effort

_SLOWER = 1.1
"""An op that was timed this much above the teacher's speaks against larger ones of its family."""

_FASTER = 1.25
"""How much faster than anything seen an op may yet run, in flops per second."""

Place = tuple[str, OpSpec]


class Worth:
    """Decides for each op, from what has been timed so far, whether it is worth timing.

    An op is passed over where

    - another op of its family in the same slot was timed as slower than the teacher's op, and has no
      more flops, params or activations than this one; or
    - it would be slower than the teacher's op even if it ran at a rate (flops per second) that is a
      quarter above the best one that the runtime reaches here, large dense layers included.

    An op that may serve another limit of the run (params, say), or that the user has fixed, is always
    timed.

    Args:
        compilation: with a program.
        counted: counted costs by resource, slot name and op.
        parts: by slot name and op.
        timer: what has been timed.
        own_ms: what a timed part takes without the runtime's call.
    """

    def __init__(
        self,
        compilation: Compilation,
        counted: Mapping[str, Mapping[str, Mapping[OpSpec, float]]],
        parts: Mapping[str, Mapping[OpSpec, Part]],
        timer: PartTimer,
        own_ms: Callable[[Part], float],
    ) -> None:
        self._compilation, self._counted, self._parts = compilation, counted, parts
        self._timer, self._own_ms = timer, own_ms
        self._peak = 0.0
        self._places: dict[str, list[Place]] = {}
        for slot, ops in parts.items():
            for op, part in ops.items():
                self._places.setdefault(part.key, []).append((slot, op))

    def in_order(self) -> list[Part]:
        """The distinct parts, those first that do the least work beside the teacher's op."""
        flops = self._counted[FLOPS]

        def share(part: Part) -> float:
            slot, op = self._places[part.key][0]
            return flops[slot][op] / max(flops[slot][TEACHER], 1.0)

        distinct = {part.key: part for ops in self._parts.values() for part in ops.values()}
        return sorted(distinct.values(), key=share)

    def measure_peak(self, effort: Effort) -> None:
        """Times large dense layers: nothing runs at a better rate. Not where no op is that large."""
        flops = self._counted[FLOPS]
        if not any(flops[slot][op] > flops[slot][TEACHER] for slot, op in self._all_places()):
            return
        probes = [
            (nn.Conv2d(256, 256, 3, padding=1), (1, 256, 28, 28), 2 * 9 * 256 * 256 * 28 * 28),
            (nn.Conv2d(512, 512, 1), (1, 512, 28, 28), 2 * 512 * 512 * 28 * 28),
        ]
        parts = [
            (self._timer.part(layer, (TensorSpec(shape, torch.float32),)), work)
            for layer, shape, work in probes
        ]
        self._timer.time([part for part, _ in parts], "measuring the machine", effort)
        for part, work in parts:
            if part.key in self._timer.times:
                self._peak = max(self._peak, work / self._own_ms(part))

    def _all_places(self) -> list[Place]:
        return [place for places in self._places.values() for place in places]

    def is_worth_timing(self, part: Part) -> bool:
        """Whether the part may be cheaper than what it would replace, wherever it would."""
        return any(self._may_help(slot, op) for slot, op in self._places[part.key])

    def _may_help(self, slot: str, op: OpSpec) -> bool:
        compilation, counted = self._compilation, self._counted
        if op == TEACHER or compilation.restrictions.fixed.get(slot) == op:
            return True
        others = [name for name in compilation.resources if name in counted]
        if any(counted[name][slot][op] < counted[name][slot][TEACHER] for name in others):
            return True
        own = self._own_ms(self._parts[slot][TEACHER])
        batch = compilation.target.batch
        if self._peak and batch * counted[FLOPS][slot][op] / (_FASTER * self._peak) > own:
            return False
        return not any(
            self._is_no_larger(slot, other, op)
            for other in self._parts[slot]
            if other.family == op.family and self._is_slower(slot, other, own)
        )

    def _is_slower(self, slot: str, op: OpSpec, own: float) -> bool:
        part = self._parts[slot][op]
        return part.key in self._timer.times and self._own_ms(part) > _SLOWER * own

    def _is_no_larger(self, slot: str, op: OpSpec, other: OpSpec) -> bool:
        return op != other and all(
            self._counted[name][slot][op] <= self._counted[name][slot][other]
            for name in (FLOPS, PARAMS, MEMORY)
        )
