"""Costs: what every op of the pool costs on the target (the paper's look-up table, b_ij)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lanac.compilation import Compilation, Dropped
from lanac.errors import PoolError
from lanac.ir import TEACHER, OpSpec, Program, TensorSpec, signature
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
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
        modules, pool, failed = _build_all(compilation, program, pool)
        compilation = compilation.dropping(failed)
        counted = _count(compilation, program, pool, modules)
        constants, teacher = _count_whole(compilation, program, counted)
        how = dict.fromkeys(counted, "counted")
        error = 0.0
        costs: dict[str, Mapping[str, Mapping[OpSpec, float]]] = dict(counted)
        if LATENCY in compilation.resources:
            latency = measure_latencies(compilation, modules, self.rounds, self.networks)
            costs[LATENCY], constants[LATENCY] = latency.costs, latency.constant
            teacher[LATENCY], how[LATENCY] = latency.teacher, "measured"
            error = latency.error
            compilation = compilation.dropping(latency.failed)
            pool = {
                name: tuple(op for op in ops if op in latency.costs[name])
                for name, ops in pool.items()
            }
        return compilation.having(costs=CostTable(costs, constants, teacher, how, error), pool=pool)


def _build_all(
    compilation: Compilation, program: Program, pool: Pool
) -> tuple[dict[str, dict[OpSpec, nn.Module]], Pool, list[Dropped]]:
    """Every op of the pool as a module; the pool without those that cannot be built; and those."""
    modules: dict[str, dict[OpSpec, nn.Module]] = {}
    failed = []
    for slot in program.slots:
        view = SlotView.of(program, slot)
        modules[slot.name] = {TEACHER: view.teacher}
        for op in pool[slot.name]:
            try:
                module = build_op(op, view, compilation.seed, compilation.families)
                modules[slot.name].setdefault(op, module)
            except PoolError as error:
                failed.append(Dropped(slot.name, op, str(error)))
    return modules, {name: tuple(ops) for name, ops in modules.items()}, failed


def _count(
    compilation: Compilation,
    program: Program,
    pool: Pool,
    modules: Mapping[str, Mapping[OpSpec, nn.Module]],
) -> dict[str, dict[str, dict[OpSpec, float]]]:
    counted: dict[str, dict[str, dict[OpSpec, float]]] = {PARAMS: {}, FLOPS: {}, MEMORY: {}}
    for slot in program.slots:
        for op in pool[slot.name]:
            counts = _counts(compilation, modules[slot.name][op], (slot.input_spec.with_batch(1),))
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
