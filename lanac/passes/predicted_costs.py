"""Predicted latencies of all ops, for a target whose device is not here."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from lanac.compilation import Compilation, Dropped
from lanac.ir import TEACHER, OpSpec, Program
from lanac.passes.import_costs import PREDICT, Fill
from lanac.passes.latency import Counts, Latencies
from lanac.passes.op_modules import OpModules
from lanac.targets import PARAMS, CostFile
from lanac.targets.predicted import (
    PredictedTable,
    Prediction,
    calibrate,
    part_time,
    predict,
    predict_table,
    way_of,
)


def predicted_latencies(compilation: Compilation, modules: OpModules, counted: Counts) -> Latencies:
    """What the ops would take on the target, from their kernels and the device's figures.

    Args:
        compilation: with a program; its anchors bring the predictions to the target's scale.
        modules: builds the ops.
        counted: counted costs of the ops that are asked for.

    Raises:
        PredictionError: nothing is known of the target, or the teacher's kernels cannot be listed.
    """
    table = predicted_table(compilation, modules, counted)
    failed = tuple(
        Dropped(name, op, f"op {op} of slot {name!r} cannot be predicted: {reason}")
        for name, ops in table.failed.items()
        for op, reason in ops.items()
    )
    return Latencies(
        costs=table.latencies(),
        constant=table.constant.latency_ms,
        teacher=table.teacher.latency_ms,
        error=table.teacher.ratio_error,
        failed=failed,
        how="predicted",
        prediction=table,
    )


def predicted_table(
    compilation: Compilation, modules: OpModules, counted: Counts
) -> PredictedTable:
    """The same by kernel class, brought to the anchors."""
    program: Program = compilation.need("program")
    ops = {slot.name: tuple(counted[PARAMS][slot.name]) for slot in program.slots}
    total = sum(len({TEACHER, *names}) for names in ops.values())
    with compilation.instruments.progress("predicting latencies", total) as advance:
        table = predict_table(
            program,
            ops,
            modules.outline,
            compilation.target,
            key_of=modules.key,
            progress=advance,
        )
    return anchored(table, compilation) if compilation.anchors else table


def predicted_whole(compilation: Compilation, network: nn.Module) -> Prediction:
    """A whole network, brought to the anchors; what fuses across slots is in it."""
    specs = compilation.need("program").input_specs
    found = predict(network, specs, compilation.target)
    if not compilation.anchors:
        return found
    return calibrate(compilation.anchors, way_of(compilation.target).errors).apply(found)


def anchored(table: PredictedTable, compilation: Compilation) -> PredictedTable:
    """The table as the anchors bring it, with parts that sum up to the teacher as before."""
    calibration = calibrate(compilation.anchors, way_of(compilation.target).errors)
    teacher = calibration.apply(table.teacher)
    moved = {
        name: {op: calibration.apply_to_part(cost) for op, cost in ops.items()}
        for name, ops in table.costs.items()
    }
    constant = calibration.apply_to_part(table.constant)
    total = constant.latency_ms + sum(ops[TEACHER].latency_ms for ops in moved.values())
    # The anchors also say something about the network as a whole, which all its parts share.
    factor = teacher.latency_ms / total
    return replace(
        table,
        costs={
            name: {op: c.scaled(factor) for op, c in ops.items()} for name, ops in moved.items()
        },
        constant=constant.scaled(factor),
        teacher=teacher,
    )


def predicted_missing(compilation: Compilation, table: CostFile, modules: OpModules) -> Fill | None:
    """Fills what a cost table lacks with predictions, where that is asked for (`--missing predict`).

    An op is predicted relative to the teacher's own in its slot, whose latency the table has.
    """
    imported = compilation.imported
    if imported is None or imported.missing != PREDICT:
        return None
    program: Program = compilation.need("program")
    own = {entry.slot: entry.latency_ms for entry in table.entries if entry.op == str(TEACHER)}

    def fill(missing: list[tuple[str, OpSpec]]) -> dict[tuple[str, OpSpec], float]:
        way, found = way_of(compilation.target), {}
        for name, op in missing:
            slot = program.slot(name)
            teacher, other = (
                part_time(module, [slot.input_spec], compilation.target, way).ms
                for module in (program.teacher_op(slot), modules.outline(slot, op))
            )
            measured = own[name]
            assert measured is not None  # a table without the teacher's own ops is refused
            found[name, op] = measured * other / teacher
        compilation.instruments.warn(
            f"{len(missing)} ops are not in the cost table {imported.path}: their latencies are "
            f"PREDICTED relative to the teacher's op of their slot ({way.evidence})"
        )
        return found

    return fill
