"""Costs from a table that was measured elsewhere: whether it fits, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lanac.backends.base import RUNTIMES
from lanac.compilation import Compilation, Dropped, Imported
from lanac.errors import CostTableError, unknown_name
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, signature
from lanac.passes.latency import Counts, Latencies, Whole
from lanac.passes.op_modules import OpModules
from lanac.targets import PARAMS, CostFile, Entry, SlotShape, Target, parse_target, what_hash

REFUSE, DROP, PREDICT = "refuse", "drop", "predict"
MISSING = (REFUSE, DROP, PREDICT)
"""What becomes of ops that a table does not have."""

Fill = Callable[[list[tuple[str, OpSpec]]], dict[tuple[str, OpSpec], float]]
"""Latencies in milliseconds for ops that a table does not have."""

_NAMED = 5


def check_missing(missing: str) -> str:
    """`--missing`; raises CostTableError for an unknown word."""
    if missing not in MISSING:
        raise CostTableError(f"--missing {missing!r}: {unknown_name('answer', missing, MISSING)}")
    return missing


def check_target(path: Path, table: CostFile, target: Target) -> None:
    """Raises where a table was measured on another target, or by another version that is here.

    Raises:
        CostTableError: names the difference.
    """
    theirs = parse_target(table.target)
    parts = [
        ("device", theirs.device, target.device),
        ("runtime", theirs.runtime, target.runtime),
        ("precision", theirs.precision, target.precision),
        ("batch", theirs.batch, target.batch),
        ("threads", theirs.threads, target.threads),
    ]
    different = [
        f"{name} {there} there, {here} here" for name, there, here in parts if there != here
    ]
    if different:
        raise CostTableError(
            f"the cost table {path} was measured for another target: {', '.join(different)}. "
            f"Use it with --target {theirs}, or measure for {target}"
        )
    here, device = library_and_device(target)
    if here and device == table.device_fingerprint and here != table.runtime:
        raise CostTableError(
            f"the cost table {path} was measured with {table.runtime}, here is {here}, whose "
            "latencies are others. Measure again, or install that version"
        )


def library_and_device(target: Target) -> tuple[str, str]:
    """The target's runtime with its version, and a hash of the device; empty where not here."""
    runtime = RUNTIMES.get(target.runtime)
    if runtime.unavailable(target) is not None:
        return "", ""
    words = runtime.version(target).split(" ")
    return " ".join(words[:2]), what_hash(" ".join(words[2:]))


def elsewhere(table: CostFile, target: Target) -> str:
    """What a table was measured on, where that is not this machine; else empty."""
    _, device = library_and_device(target)
    return "" if device == table.device_fingerprint else table.device


def check_model(path: Path, table: CostFile, program: Program) -> None:
    """Raises where a table was measured for a model with other shapes or slots.

    Raises:
        CostTableError: names the first difference.
    """
    here = f"the cost table {path} was measured for another model"
    inputs = tuple(str(spec) for spec in program.input_specs)
    if table.inputs != inputs:
        raise CostTableError(
            f"{here}: its inputs are {', '.join(table.inputs)} there, {', '.join(inputs)} here"
        )
    ours = slot_shapes(program)
    names, own = ([slot.slot for slot in slots] for slots in (table.slots, ours))
    if names != own:
        there_only = [name for name in names if name not in own]
        here_only = [name for name in own if name not in names]
        example = f" ({(there_only + here_only)[0]!r} is one of them only)" * bool(
            there_only or here_only
        )
        raise CostTableError(
            f"{here}, or with other --granularity, --only or --skip: it has {len(names)} slots, "
            f"here are {len(own)}{example}"
        )
    for theirs, mine in zip(table.slots, ours, strict=True):
        for what in ("input", "output"):
            if getattr(theirs, what) != getattr(mine, what):
                raise CostTableError(
                    f"{here}: the {what} of slot {mine.slot!r} is {getattr(theirs, what)} there, "
                    f"{getattr(mine, what)} here"
                )
        if theirs.what != mine.what:
            import torch

            raise CostTableError(
                f"{here}: slot {mine.slot!r} has other layers there (torch {table.torch} there, "
                f"{torch.__version__} here)"
            )


def slot_shapes(program: Program) -> tuple[SlotShape, ...]:
    """The slots as a table's header has them."""
    return tuple(
        SlotShape(
            slot.name,
            str(slot.input_spec),
            str(slot.output_spec),
            what_hash(signature(program.teacher_op(slot), slot.input_spec.with_batch(1))),
        )
        for slot in program.slots
    )


def imported_latencies(
    compilation: Compilation,
    imported: Imported,
    modules: OpModules,
    counted: Counts,
    fill: Fill | None = None,
) -> Latencies:
    """What a table says about the ops of a pool.

    Args:
        compilation: with a program that the table was measured for.
        imported: the table, and what becomes of ops that it does not have.
        modules: builds the ops.
        counted: counted costs by resource, slot name and op: of every op that is asked for.
        fill: gives latencies to ops that the table does not have; None: there is no such way.

    Raises:
        CostTableError: ops are missing, and nothing is to be done about that.
    """
    table, path = imported.table, imported.path
    entries = table.by_place()
    costs: dict[str, dict[OpSpec, float]] = {}
    energy: dict[str, dict[OpSpec, float]] = {}
    missing: list[tuple[str, OpSpec]] = []
    failed: list[Dropped] = []
    passed_over = 0
    for slot in compilation.need("program").slots:
        own, own_energy = costs.setdefault(slot.name, {}), energy.setdefault(slot.name, {})
        for op in counted[PARAMS][slot.name]:
            if op == IDENTITY:
                own[op] = own_energy[op] = 0.0
                continue
            entry = entries.get((slot.name, str(op)))
            if entry is None or entry.what != what_hash(modules.signature(slot, op)):
                missing.append((slot.name, op))
            elif entry.latency_ms is None:
                passed_over += entry.why == SLOWER
                if entry.why != SLOWER:
                    failed.append(Dropped(slot.name, op, _reason(entry, table)))
            else:
                own[op] = entry.latency_ms
                if entry.energy_mj is not None:
                    own_energy[op] = entry.energy_mj
    _check_own(path, costs)
    if missing and fill is not None:
        for (name, op), latency_ms in fill(missing).items():
            costs[name][op] = latency_ms
    elif missing and imported.missing == REFUSE:
        raise CostTableError(_missing_message(path, missing))
    elif missing:
        failed += [
            Dropped(name, op, f"op {op} of slot {name!r} is not in the cost table {path}")
            for name, op in missing
        ]
    has_energy = table.energy_mj is not None
    return Latencies(
        costs,
        table.outside_latency_ms,
        table.latency_ms,
        table.error,
        tuple(failed),
        how="imported",
        elsewhere=elsewhere(table, compilation.target),
        wholes=tuple(Whole(*pair) for pair in table.networks),
        passed_over=passed_over,
        energy_mj=energy if has_energy else None,
        energy_constant_mj=table.outside_energy_mj or 0.0,
        energy_teacher_mj=table.energy_mj or 0.0,
    )


SLOWER = "cannot be cheaper than what it would replace"
"""Why ops that were passed over have no latency."""


def _reason(entry: Entry, table: CostFile) -> str:
    return entry.why or f"op {entry.op} of slot {entry.slot!r} was not timed on {table.device}"


def _check_own(path: Path, costs: dict[str, dict[OpSpec, float]]) -> None:
    for name, own in costs.items():
        if TEACHER not in own:
            raise CostTableError(
                f"the cost table {path} has no latency of the teacher's own op in slot {name!r}"
            )


def _missing_message(path: Path, missing: list[tuple[str, OpSpec]]) -> str:
    named = ", ".join(f"{op} in {name}" for name, op in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return (
        f"the cost table {path} lacks {len(missing)} ops of this pool: {named}{more}. Measure them "
        "(lanac measure with the same --pool and --ops goes on from there), leave them out (--missing "
        "drop), or predict them (--missing predict)"
    )
