"""Costs: what every op of the pool costs on the target (the paper's look-up table, b_ij)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lanac.compilation import Compilation
from lanac.errors import PoolError
from lanac.ir import TEACHER, OpSpec, Program
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
        modules, pool = _build_all(compilation, program, pool)
        counted = _count(program, pool, modules)
        constants, teacher = _count_whole(compilation, program)
        how = dict.fromkeys(counted, "counted")
        error = 0.0
        costs: dict[str, Mapping[str, Mapping[OpSpec, float]]] = dict(counted)
        if LATENCY in compilation.resources:
            latency = measure_latencies(compilation, modules, self.rounds, self.networks)
            costs[LATENCY], constants[LATENCY] = latency.costs, latency.constant
            teacher[LATENCY], how[LATENCY] = latency.teacher, "measured"
            error = latency.error
            pool = {
                name: tuple(op for op in ops if op in latency.costs[name])
                for name, ops in pool.items()
            }
        return compilation.having(costs=CostTable(costs, constants, teacher, how, error), pool=pool)


def _build_all(
    compilation: Compilation, program: Program, pool: Pool
) -> tuple[dict[str, dict[OpSpec, nn.Module]], Pool]:
    """Every op of the pool as a module; ops that cannot be built are dropped and named."""
    modules: dict[str, dict[OpSpec, nn.Module]] = {}
    for slot in program.slots:
        view = SlotView.of(program, slot)
        modules[slot.name] = {TEACHER: view.teacher}
        for op in pool[slot.name]:
            try:
                modules[slot.name].setdefault(op, build_op(op, view, compilation.seed))
            except PoolError as error:
                compilation.instruments.warn(f"dropped: {error}")
    return modules, {name: tuple(ops) for name, ops in modules.items()}


def _count(
    program: Program, pool: Pool, modules: Mapping[str, Mapping[OpSpec, nn.Module]]
) -> dict[str, dict[str, dict[OpSpec, float]]]:
    counted: dict[str, dict[str, dict[OpSpec, float]]] = {PARAMS: {}, FLOPS: {}, MEMORY: {}}
    for slot in program.slots:
        spec = slot.input_spec.with_batch(1)
        inputs = (torch.zeros(spec.shape, dtype=spec.dtype),)
        for op in pool[slot.name]:
            module = modules[slot.name][op]
            counted[PARAMS].setdefault(slot.name, {})[op] = count_params(module)
            counted[FLOPS].setdefault(slot.name, {})[op] = count_flops(module, inputs)
            counted[MEMORY].setdefault(slot.name, {})[op] = peak_activation_bytes(module, inputs)
    return counted


def _count_whole(
    compilation: Compilation, program: Program
) -> tuple[dict[str, float], dict[str, float]]:
    """Counted costs outside the slots, and of the whole teacher, for one sample."""
    inputs = tuple(value[:1] for value in compilation.example)
    params, flops = count_params(program.teacher), count_flops(program.teacher, inputs)
    memory = peak_activation_bytes(program.teacher, inputs)
    teacher = {PARAMS: float(params), FLOPS: float(flops), MEMORY: float(memory)}
    constants = {PARAMS: float(params), FLOPS: float(flops), MEMORY: 0.0}
    for slot in program.slots:
        op, spec = program.teacher_op(slot), slot.input_spec.with_batch(1)
        constants[PARAMS] -= count_params(op)
        constants[FLOPS] -= count_flops(op, (torch.zeros(spec.shape, dtype=spec.dtype),))
    return constants, teacher
