"""The figures of an inspection: what each slot costs, and its share of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lanac.inspection import Inspection
from lanac.ir import TEACHER, Slot
from lanac.targets import FLOPS, LATENCY


@dataclass(frozen=True)
class SlotFigures:
    """What one slot costs.

    Attributes:
        slot: the slot.
        costs: by resource; latency only where it was measured.
        share: of the whole network's latency, or of its flops where latency was not measured.
    """

    slot: Slot
    costs: Mapping[str, float]
    share: float


@dataclass(frozen=True)
class NetworkFigures:
    """What a network costs.

    Attributes:
        slots: of every slot, in their order.
        outside: by resource, what lies outside the slots; the runtime's own call is part of it.
        total: by resource, the whole network; latency measured as a whole.
        measured: whether latency was measured.
    """

    slots: tuple[SlotFigures, ...]
    outside: Mapping[str, float]
    total: Mapping[str, float]

    @property
    def measured(self) -> bool:
        return LATENCY in self.total

    @property
    def shared(self) -> str:
        """The resource that the shares are of."""
        return LATENCY if self.measured else FLOPS

    @property
    def share_title(self) -> str:
        return "share of latency (measured)" if self.measured else "share of flops (counted)"

    @property
    def outside_share(self) -> float:
        return _share(self.outside[self.shared], self.total[self.shared])

    def of(self, name: str) -> SlotFigures:
        return next(item for item in self.slots if item.slot.name == name)


def figures_of(inspection: Inspection) -> NetworkFigures:
    """Every slot's own op, what lies outside, and the whole."""
    costs = inspection.costs
    shared = LATENCY if LATENCY in costs.costs else FLOPS
    slots = []
    for slot in inspection.program.slots:
        own = {resource: costs.costs[resource][slot.name][TEACHER] for resource in costs.costs}
        slots.append(SlotFigures(slot, own, _share(own[shared], costs.teacher[shared])))
    return NetworkFigures(tuple(slots), costs.constants, costs.teacher)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
