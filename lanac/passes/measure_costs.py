"""Costs: what every op of the pool costs on the target (the paper's look-up table, b_ij)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lanac.compilation import Compilation
from lanac.errors import LanacError, PoolError
from lanac.ir import TEACHER, OpSpec, Program, TensorSpec, signature
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.ops.pool import Pool
from lanac.passes.latency import measure_latencies
from lanac.targets import (
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    CostTable,
    count_flops,
    count_params,
    peak_activation_bytes,
)
from lanac.workspace import Result, key_of


@dataclass(frozen=True)
class MeasureCosts:
    """Counts params, flops and peak memory of every op; measures latency where it is limited.

    Latency is measured once per distinct operation and shape, in the target's runtime, at its
    batch, interleaved with the whole teacher (`lanac.passes.latency`).

    Attributes:
        rounds: how often each op is timed; the median counts.
        networks: how many whole networks the sum of parts is fitted on.
    """

    rounds: int = 15
    networks: int = 8
    name = "measure_costs"
    needs = ("program", "pool")
    provides = ("costs", "pool")

    def run(self, compilation: Compilation) -> Compilation:
        program, pool = compilation.need("program"), compilation.need("pool")
        modules = _build_all(compilation, program, pool)
        counted = _count(compilation, program, modules)
        modules, pool = _only(modules, counted[PARAMS])
        constants, teacher = _count_whole(compilation, program, counted)
        how = dict.fromkeys(counted, "counted")
        error = 0.0
        costs: dict[str, Mapping[str, Mapping[OpSpec, float]]] = dict(counted)
        if LATENCY in compilation.resources:
            latency = measure_latencies(compilation, modules, self.rounds, self.networks)
            costs[LATENCY], constants[LATENCY] = latency.costs, latency.constant
            teacher[LATENCY], how[LATENCY] = latency.teacher, "measured"
            error = latency.error
            for name, ops in pool.items():
                for op in (op for op in ops if op not in latency.costs[name]):
                    compilation.instruments.warn(
                        f"dropped: op {op} of slot {name!r} cannot be timed"
                    )
            _, pool = _only(modules, latency.costs)
        return compilation.having(costs=CostTable(costs, constants, teacher, how, error), pool=pool)


def _build_all(
    compilation: Compilation, program: Program, pool: Pool
) -> dict[str, dict[OpSpec, nn.Module]]:
    """Every op of the pool as it will run; ops that cannot be built are dropped and named."""
    modules: dict[str, dict[OpSpec, nn.Module]] = {}
    for slot in program.slots:
        view = SlotView.of(program, slot)
        modules[slot.name] = {TEACHER: view.teacher}
        for op in pool[slot.name]:
            if op == TEACHER:
                continue
            try:
                modules[slot.name][op] = _as_it_runs(op, view, compilation.seed)
            except PoolError as error:
                compilation.instruments.warn(f"dropped: {error}")
    return modules


def _as_it_runs(op: OpSpec, view: SlotView, seed: int) -> nn.Module:
    module = build_op(op, view, seed)
    try:
        return folded(module)
    except PoolError as error:
        raise PoolError(f"op {op} of slot {view.slot.name!r}: {error}") from error


def _only(
    modules: Mapping[str, Mapping[OpSpec, nn.Module]], known: Mapping[str, Mapping[OpSpec, object]]
) -> tuple[dict[str, dict[OpSpec, nn.Module]], Pool]:
    """The ops that something is known of, as modules and as a pool."""
    kept = {
        name: {op: module for op, module in ops.items() if op in known[name]}
        for name, ops in modules.items()
    }
    return kept, {name: tuple(ops) for name, ops in kept.items()}


def _count(
    compilation: Compilation,
    program: Program,
    modules: Mapping[str, Mapping[OpSpec, nn.Module]],
) -> dict[str, dict[str, dict[OpSpec, float]]]:
    """Counted costs by resource, slot name and op; ops that cannot be counted are missing."""
    counted: dict[str, dict[str, dict[OpSpec, float]]] = {PARAMS: {}, FLOPS: {}, MEMORY: {}}
    for slot in program.slots:
        for op, module in modules[slot.name].items():
            try:
                counts = _counts(compilation, module, (slot.input_spec.with_batch(1),))
            except LanacError:
                raise
            # The op's own code runs here, which may raise anything. The teacher's has to be counted.
            except Exception as error:
                if op == TEACHER:
                    raise
                compilation.instruments.warn(
                    f"dropped: op {op} of slot {slot.name!r} cannot be counted: "
                    f"{type(error).__name__}: {error}"
                )
                continue
            for resource, count in counts.items():
                counted[resource].setdefault(slot.name, {})[op] = count
    return counted


def _counts(
    compilation: Compilation, module: nn.Module, specs: tuple[TensorSpec, ...]
) -> dict[str, float]:
    """Params, flops and peak memory of one sample; counted once per operation and shape.

    Counting is quick, but what counts flops takes seconds to import: the workspace answers first.
    """
    key = key_of(
        "counted, attention too", signature(module, specs[0]), [str(spec) for spec in specs]
    )
    stored = compilation.workspace.get("counted", key)
    if stored is None:
        inputs = tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in specs)
        stored = Result(
            {
                PARAMS: count_params(module),
                FLOPS: count_flops(module, inputs),
                MEMORY: peak_activation_bytes(module, inputs),
            }
        )
        compilation.workspace.put("counted", key, stored)
    return {resource: float(stored.value[resource]) for resource in (PARAMS, FLOPS, MEMORY)}


def _count_whole(
    compilation: Compilation,
    program: Program,
    counted: Mapping[str, Mapping[str, Mapping[OpSpec, float]]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Counted costs outside the slots, and of the whole teacher, for one sample."""
    specs = tuple(spec.with_batch(1) for spec in program.input_specs)
    teacher = _counts(compilation, program.teacher, specs)
    constants = {**teacher, MEMORY: 0.0}
    for resource in (PARAMS, FLOPS):
        constants[resource] -= sum(counted[resource][slot.name][TEACHER] for slot in program.slots)
    return constants, teacher
