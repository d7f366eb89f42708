"""Cost tables: what every op costs on the target, and what the rest of the network costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lanac.ir import TEACHER, OpSpec, Slot

if TYPE_CHECKING:
    from lanac.targets.predicted.table import PredictedTable

LATENCY, PARAMS, FLOPS, MEMORY = "latency_ms", "params", "flops", "memory_bytes"
SIZE, ENERGY = "size_bytes", "energy_mj"
COUNTED = (PARAMS, FLOPS, MEMORY, SIZE)
"""Resources that are counted; the others are measured, imported or predicted."""

RESOURCES = (LATENCY, *COUNTED, ENERGY)


@dataclass(frozen=True)
class CostTable:
    """Costs by resource, slot and op (the paper's look-up table).

    Attributes:
        costs: resource -> slot name -> op -> cost; latency in milliseconds, memory and size in
            bytes, energy in millijoules.
        constants: resource -> cost of what lies outside the slots.
        teacher: resource -> cost of the whole teacher, latency measured as a whole.
        how: resource -> where the figures come from: "measured", "imported", "predicted" or "counted".
        error: of latencies: mean relative error of the sum over whole networks measured beside it;
            where they are predicted, how far nine of ten ratios to the teacher are off at most.
        prediction: the predicted latencies by kernel class, where they are predicted.
        how: resource -> where the figures come from: "measured", "imported" or "counted".
        error: mean relative error of the sum of latencies over whole networks measured beside it.
        elsewhere: on what latencies were measured, where that is not this machine; else empty.
    """

    costs: Mapping[str, Mapping[str, Mapping[OpSpec, float]]]
    constants: Mapping[str, float]
    teacher: Mapping[str, float]
    how: Mapping[str, str]
    error: float = 0.0
    prediction: PredictedTable | None = None
    elsewhere: str = ""

    def total(self, resource: str, slots: Sequence[Slot], ops: Sequence[OpSpec]) -> float:
        """Predicted cost of a plan: a sum, but the largest slot's for peak memory."""
        parts = [self.costs[resource][slot.name][op] for slot, op in zip(slots, ops, strict=True)]
        if resource == MEMORY:
            return max([self.constants[resource], *parts])
        return self.constants[resource] + sum(parts)

    def totals(self, slots: Sequence[Slot], ops: Sequence[OpSpec]) -> dict[str, float]:
        """Predicted cost of a plan by resource."""
        return {resource: self.total(resource, slots, ops) for resource in self.costs}

    def is_cheaper(self, slot: Slot, op: OpSpec, resources: Sequence[str]) -> bool:
        """Whether an op costs less than the slot's own in at least one of the resources.

        A latency has to be lower by more than measurements scatter.
        """
        for resource in resources:
            own, other = (
                self.costs[resource][slot.name][TEACHER],
                self.costs[resource][slot.name][op],
            )
            if other < own * (0.98 if resource == LATENCY else 1.0):
                return True
        return False
