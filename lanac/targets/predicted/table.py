"""Predicted costs of all ops of all slots, consistent with the prediction of the whole teacher."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lanac.errors import PredictionError
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, Slot
from lanac.targets.predicted.kernels import record_kernels
from lanac.targets.predicted.model import shares
from lanac.targets.predicted.prediction import (
    DeviceTime,
    PartCost,
    Prediction,
    device_time,
    part_time,
    predict_kernels,
)
from lanac.targets.predicted.ways import Way, way_of
from lanac.targets.target import Target


@dataclass(frozen=True)
class PredictedTable:
    """What every op of every slot adds to the network's latency, by kernel class.

    For the teacher's own ops, `constant` and the slots sum to `teacher` exactly.

    Attributes:
        costs: slot name -> op -> cost.
        constant: of what lies outside the slots, and of what slots share at their borders.
        teacher: the whole teacher.
        failed: slot name -> op -> why its kernels cannot be listed.
    """

    costs: Mapping[str, Mapping[OpSpec, PartCost]]
    constant: PartCost
    teacher: Prediction
    failed: Mapping[str, Mapping[OpSpec, str]]

    def latencies(self) -> dict[str, dict[OpSpec, float]]:
        """Milliseconds by slot name and op."""
        return {
            name: {op: cost.latency_ms for op, cost in ops.items()}
            for name, ops in self.costs.items()
        }


def predict_table(
    program: Program,
    ops: Mapping[str, Sequence[OpSpec]],
    module_of: Callable[[Slot, OpSpec], nn.Module],
    target: Target,
    *,
    key_of: Callable[[Slot, OpSpec], Hashable] | None = None,
    progress: Callable[[int], None] | None = None,
    way: Way | None = None,
) -> PredictedTable:
    """Predicts all costs of a pool.

    Args:
        program: the teacher and its slots.
        ops: the ops by slot name; the teacher's own is predicted in any case.
        module_of: gives an op as it will run; on the meta device too. Not called for identity and the
            teacher's op, nor twice for one key.
        target: a device whose figures are known.
        key_of: equal for ops that run the same kernels; default: every slot and op on its own.
        progress: called with 1 after every op.
        way: how the target runs networks; default: as `way_of` says.

    Raises:
        PredictionError: nothing is known of the target, or the teacher cannot be listed.
    """
    way, batch = way or way_of(target), target.batch
    known: dict[Hashable, DeviceTime | str] = {}

    def time_of(slot: Slot, op: OpSpec) -> DeviceTime | str:
        if op == IDENTITY:
            return DeviceTime({}, 0)
        key = (slot.name, op) if key_of is None else key_of(slot, op)
        if key not in known:
            module = program.teacher_op(slot) if op == TEACHER else module_of(slot, op)
            known[key] = _time(module, slot, target, way)
        return known[key]

    times: dict[str, dict[OpSpec, DeviceTime]] = {}
    failed: dict[str, dict[OpSpec, str]] = {}
    for slot in program.slots:
        for op in dict.fromkeys((TEACHER, *ops[slot.name])):
            found = time_of(slot, op)
            if isinstance(found, DeviceTime):
                times.setdefault(slot.name, {})[op] = found
            elif op == TEACHER:
                raise PredictionError(f"the teacher's op of slot {slot.name!r}: {found}")
            else:
                failed.setdefault(slot.name, {})[op] = found
            if progress is not None:
                progress(1)
    specs = [spec.with_batch(batch) for spec in program.input_specs]
    listed = record_kernels(program.teacher, specs)
    teacher = predict_kernels(listed, target, way)
    weights = shares(device_time(listed, target, way).ms, teacher.kernels, way.constants)
    costs = {
        name: {op: time.in_a_network(*weights) for op, time in found.items()}
        for name, found in times.items()
    }
    constant = teacher.cost.minus(ops[TEACHER] for ops in costs.values())
    if constant.latency_ms < 0:  # the parts fuse across their borders, and nothing else is there
        own = sum(ops[TEACHER].latency_ms for ops in costs.values())
        factor = teacher.latency_ms / own
        costs = {
            name: {op: cost.scaled(factor) for op, cost in ops.items()}
            for name, ops in costs.items()
        }
        constant = PartCost.of({})
    return PredictedTable(costs, constant, teacher, failed)


def _time(module: nn.Module, slot: Slot, target: Target, way: Way) -> DeviceTime | str:
    try:
        return part_time(module, [slot.input_spec], target, way)
    except PredictionError as error:
        return str(error)
