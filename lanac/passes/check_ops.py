"""Checks the ops of families that are not lanac's, before anything is measured or trained."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx, nn

from lanac.backends import onnxruntime
from lanac.backends.pytorch import write_source
from lanac.compilation import Compilation, Dropped
from lanac.errors import BackendError, FamilyError, PoolError
from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.build import build_op, check_op, random_inputs


@dataclass(frozen=True)
class CheckOps:
    """Builds and tries every op of a family that the user or another package brought.

    An op that fails for a slot is dropped and named. One that the user brought to this run and that
    works in no slot is a mistake in it, and ends the run.

    Attributes:
        as_source: whether the student will be written as PyTorch source.
    """

    as_source: bool = True
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
                reason = self._reason_against(compilation, op, view)
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

    def _reason_against(self, compilation: Compilation, op: OpSpec, view: SlotView) -> str | None:
        """Why an op is not fit for a slot; None where it is, or where its family is lanac's."""
        if compilation.families.is_lanacs(op.family):
            return None
        try:
            module = build_op(op, view, compilation.seed, compilation.families)
            _check_calibrated(compilation, op, module, view)
            check_op(op, copy.deepcopy(module), view)
            self._check_emission(op, module, view)
        except PoolError as error:
            return str(error)
        return None

    def _check_emission(self, op: OpSpec, module: nn.Module, view: SlotView) -> None:
        """ONNX is needed in any case: that is what is timed."""
        here = f"op {op} in slot {view.slot.name!r}"
        inputs = (random_inputs(view.input_spec.with_batch(1), seed=0),)
        try:
            onnxruntime.session(onnxruntime.export_for_timing(module, inputs), threads=1)
        except BackendError as error:
            raise PoolError(f"{here} does not run as ONNX: {error}") from error
        if not self.as_source:
            return
        try:
            write_source(fx.GraphModule({"op": module}, _calling("op")), inputs)
        except BackendError as error:
            raise PoolError(f"{here}: {error}") from error


def _check_calibrated(
    compilation: Compilation, op: OpSpec, module: nn.Module, view: SlotView
) -> None:
    """What is trained was built with calibration data, and is loaded into what was built without."""
    some = replace(view, calibration=random_inputs(view.input_spec.with_batch(8), seed=0))
    calibrated = build_op(op, some, compilation.seed, compilation.families)
    one, other = (
        {name: tuple(value.shape) for name, value in built.state_dict().items()}
        for built in (calibrated, module)
    )
    different = sorted(name for name in one.keys() | other if one.get(name) != other.get(name))
    if different:
        raise PoolError(
            f"op {op} in slot {view.slot.name!r} has other weights with calibration data than "
            f"without ({different[0]!r}: {one.get(different[0])}, {other.get(different[0])}); "
            "expected the same names and shapes: only values may follow from view.calibration"
        )


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
