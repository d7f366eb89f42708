"""Checks the ops of families that are not lanac's, before anything is measured or trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

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
        program, families = compilation.need("program"), compilation.families
        pool: dict[str, tuple[OpSpec, ...]] = dict(compilation.need("pool"))
        outside = {
            name: [op for op in ops if not families.is_lanacs(op.family)]
            for name, ops in pool.items()
        }
        count = sum(map(len, outside.values()))
        if not count:
            return compilation
        reasons: dict[OpSpec, dict[str, str]] = defaultdict(dict)
        with compilation.instruments.progress(f"checking {count} ops", count) as advance:
            for slot in program.slots:
                view = SlotView.of(program, slot)
                for op in outside[slot.name]:
                    reason = self._reason_against(compilation, op, view)
                    if reason is not None:
                        reasons[op][slot.name] = reason
                        pool[slot.name] = tuple(other for other in pool[slot.name] if other != op)
                    advance(1)
        for op, by_slot in reasons.items():
            works = any(op in ops for ops in pool.values())
            if op.family in families.own and not works:
                raise FamilyError(_refusal(families.own[op.family].where, by_slot))
        dropped = [
            Dropped(slot.name, op, reasons[op][slot.name])
            for slot in program.slots
            for op in outside[slot.name]
            if slot.name in reasons[op]
        ]
        return compilation.dropping(dropped).having(pool=pool)

    def _reason_against(self, compilation: Compilation, op: OpSpec, view: SlotView) -> str | None:
        """Why an op is not fit for a slot; None where it is."""
        before = {name: value.clone() for name, value in view.teacher.state_dict().items()}
        try:
            module = build_op(op, view, compilation.seed, compilation.families)
            _check_calibrated(compilation, op, module, view)
            check_op(op, module, view)
            module = build_op(op, view, compilation.seed, compilation.families)
            self._check_emission(op, module, view)
        except PoolError as error:
            return str(error)
        finally:
            _check_teacher(compilation, op, view, before)
        return None

    def _check_emission(self, op: OpSpec, module: nn.Module, view: SlotView) -> None:
        """ONNX is needed in any case: other outputs are made of it, and most runtimes read it."""
        here = f"op {op} in slot {view.slot.name!r}"
        inputs = (random_inputs(view.input_spec.with_batch(1), seed=0),)
        try:
            onnxruntime.session(onnxruntime.export_for_timing(module, inputs), threads=1)
        except BackendError as error:
            raise PoolError(
                f"{here} does not run as ONNX, as which every student is written: {error}"
            ) from error
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


def _check_teacher(
    compilation: Compilation, op: OpSpec, view: SlotView, before: Mapping[str, Tensor]
) -> None:
    """Raises where building an op has changed the teacher: nothing after that would be true."""
    for name, value in view.teacher.state_dict().items():
        same = value.shape == before[name].shape and torch.equal(value, before[name])
        if not same and not before[name].isnan().any():
            own = compilation.families.own.get(op.family)
            raise FamilyError(
                f"{own.where if own else f'the installed family {op.family!r}'}: op {op} in slot "
                f"{view.slot.name!r} changes the teacher's weight {name!r}; let build() change a "
                "copy, as copy.deepcopy(view.teacher)"
            )


def _calling(name: str) -> fx.Graph:
    """A network of one module."""
    graph = fx.Graph()
    graph.output(graph.call_module(name, (graph.placeholder("x"),)))
    return graph


def _refusal(where: str, by_slot: Mapping[str, str]) -> str:
    (first, *others) = by_slot.values()
    if not others:
        return f"{where}: {first}"
    return f"{where}: {first}. It works in none of the {len(by_slot)} slots that enumerate() gives it for"
