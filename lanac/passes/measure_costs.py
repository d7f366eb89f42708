"""Costs: what every op of the pool costs on the target (the paper's look-up table, b_ij)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import nn

from lanac.compilation import Compilation, Dropped
from lanac.errors import CostTableError, LanacError, PoolError
from lanac.instruments import Advance
from lanac.ir import TEACHER, MetaMode, OpSpec, Program, Slot, TensorSpec, signature
from lanac.ops.pool import Pool
from lanac.passes.latency import Latencies, Thoroughness
from lanac.passes.latency_costs import latency_costs
from lanac.passes.op_modules import OpModules
from lanac.passes.op_outlines import is_outline
from lanac.targets import (
    COUNTED,
    ENERGY,
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    SIZE,
    CostTable,
    count_bytes,
    count_flops,
    count_params,
    peak_activation_bytes,
)
from lanac.workspace import Result, key_of

_MANY = 300
"""Counting more ops than this takes long enough to be shown."""


@dataclass(frozen=True)
class MeasureCosts:
    """Counts params, flops and peak memory of every op; measures latency where it is limited.

    Latency is measured once per distinct operation and shape, in the target's runtime, at its
    batch, interleaved with the whole teacher (`lanac.passes.latency`).

    Attributes:
        how: how latency is measured.
    """

    how: Thoroughness = field(default_factory=Thoroughness)
    name = "measure_costs"
    needs = ("program", "pool")
    provides = ("costs", "pool")

    def run(self, compilation: Compilation) -> Compilation:
        program, modules = compilation.need("program"), OpModules(compilation)
        counted, failed = count_ops(compilation, program, compilation.need("pool"), modules)
        compilation = compilation.dropping(failed)
        pool = {name: tuple(ops) for name, ops in counted[PARAMS].items()}
        constants, teacher = _count_whole(compilation, program, counted)
        how = dict.fromkeys(counted, "counted")
        costs: dict[str, Mapping[str, Mapping[OpSpec, float]]] = dict(counted)
        if not {LATENCY, ENERGY} & set(compilation.resources):
            return compilation.having(costs=CostTable(costs, constants, teacher, how), pool=pool)
        found = latency_costs(compilation, modules, counted, self.how)
        costs[LATENCY], constants[LATENCY] = found.costs, found.constant
        teacher[LATENCY], how[LATENCY] = found.teacher, found.how
        if ENERGY in compilation.resources:
            costs[ENERGY] = _energy(compilation, found)
            constants[ENERGY], teacher[ENERGY] = found.energy_constant_mj, found.energy_teacher_mj
            how[ENERGY] = found.how
        if found.passed_over:
            compilation.instruments.say(
                f"{found.passed_over} ops were not timed: they cannot be cheaper than what "
                "they would replace"
            )
        pool = {
            name: tuple(op for op in ops if op in found.costs[name]) for name, ops in pool.items()
        }
        table = CostTable(
            costs, constants, teacher, how, found.error, found.prediction, found.elsewhere
        )
        return compilation.dropping(found.failed).having(costs=table, pool=pool)


def _energy(compilation: Compilation, found: Latencies) -> dict[str, dict[OpSpec, float]]:
    """The energy of every op that has a latency."""
    if found.energy_mj is None:
        raise CostTableError(
            "a budget limits energy, which no machine is asked about: give a cost table with that "
            "column (--costs, docs/cost-tables.md)"
        )
    for name, ops in found.costs.items():
        for op in ops:
            if op not in found.energy_mj[name]:
                raise CostTableError(
                    f"a budget limits energy, and the cost table has none for op {op} in slot {name!r}"
                )
    return found.energy_mj


def count_ops(
    compilation: Compilation, program: Program, pool: Pool, modules: OpModules
) -> tuple[dict[str, dict[str, dict[OpSpec, float]]], list[Dropped]]:
    """Counted costs by resource, slot name and op; and the ops that cannot be built or counted."""
    counted: dict[str, dict[str, dict[OpSpec, float]]] = {name: {} for name in COUNTED}
    failed: list[Dropped] = []
    places = [(slot, op) for slot in program.slots for op in pool[slot.name]]
    showing: AbstractContextManager[Advance] = contextlib.nullcontext(lambda _: None)
    if len(places) > _MANY:
        showing = compilation.instruments.progress("counting", len(places))
    with showing as advance:
        for slot, op in places:
            counts = _count_op(compilation, modules, slot, op)
            if isinstance(counts, Dropped):
                failed.append(counts)
            else:
                for resource, count in counts.items():
                    counted[resource].setdefault(slot.name, {})[op] = count
            advance(1)
    return counted, failed


def _count_op(
    compilation: Compilation, modules: OpModules, slot: Slot, op: OpSpec
) -> dict[str, float] | Dropped:
    """What is counted of an op, or why it cannot be."""
    specs = (slot.input_spec.with_batch(1),)
    try:
        outline = modules.outline(slot, op)
        with contextlib.suppress(Exception):  # what runs may yet not run on the meta device
            return _counts(compilation, outline, modules.signature(slot, op), specs)
        return _counts(compilation, modules.get(slot, op), modules.signature(slot, op), specs)
    except PoolError as error:
        return Dropped(slot.name, op, str(error))
    except LanacError:
        raise
    # The op's own code runs here, which may raise anything. The teacher's has to be counted.
    except Exception as error:
        if op == TEACHER:
            raise
        reason = f"op {op} of slot {slot.name!r} cannot be counted: {type(error).__name__}: {error}"
        return Dropped(slot.name, op, reason)


def _counts(
    compilation: Compilation, module: nn.Module, what: str, specs: tuple[TensorSpec, ...]
) -> dict[str, float]:
    """Params, flops and peak memory of one sample; counted once per operation and shape.

    `what` is the signature of the module. Counting is quick, but what counts flops takes seconds to
    import: the workspace answers first.
    """
    precision = compilation.target.precision
    key = key_of("counted, with size", what, [str(spec) for spec in specs], precision)
    stored = compilation.workspace.get("counted", key)
    if stored is None:
        outline = is_outline(module)
        device = "meta" if outline else "cpu"
        inputs = tuple(torch.zeros(spec.shape, dtype=spec.dtype, device=device) for spec in specs)
        with MetaMode() if outline else contextlib.nullcontext():
            stored = Result(
                {
                    PARAMS: count_params(module),
                    FLOPS: count_flops(module, inputs),
                    MEMORY: peak_activation_bytes(module, inputs),
                    SIZE: count_bytes(module, precision),
                }
            )
        compilation.workspace.put("counted", key, stored)
    return {resource: float(stored.value[resource]) for resource in COUNTED}


def _count_whole(
    compilation: Compilation,
    program: Program,
    counted: Mapping[str, Mapping[str, Mapping[OpSpec, float]]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Counted costs outside the slots, and of the whole teacher, for one sample."""
    specs = tuple(spec.with_batch(1) for spec in program.input_specs)
    what = signature(program.teacher, specs[0])
    teacher = _counts(compilation, program.teacher, what, specs)
    constants = {**teacher, MEMORY: 0.0}
    for resource in (PARAMS, FLOPS, SIZE):
        constants[resource] -= sum(counted[resource][slot.name][TEACHER] for slot in program.slots)
    return constants, teacher
