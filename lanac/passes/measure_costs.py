"""Costs: what every op of the pool costs on the target (the paper's look-up table, b_ij)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lanac.backends import onnxruntime
from lanac.compilation import Compilation
from lanac.errors import BackendError, PoolError
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, TensorSpec, signature
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.pool import Pool
from lanac.targets import (
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    CostTable,
    count_flops,
    count_params,
    peak_activation_bytes,
    time_interleaved,
)
from lanac.workspace import Result, key_of

_GROUP = 24  # sessions open at once, each with its own reference: bounds memory
_FLOOR_MS = 1e-4  # an op costs something, even where it measures as free


@dataclass(frozen=True)
class Part:
    """Something to be timed: a module with its inputs, and the key of what it is."""

    key: str
    module: nn.Module
    specs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class MeasureCosts:
    """Counts params, flops and peak memory of every op; measures latency where it is limited.

    Latency is measured once per distinct operation and shape, in the target's runtime, at its
    batch, interleaved with the whole teacher.

    Attributes:
        rounds: how often each op is timed; the median counts.
    """

    rounds: int = 15
    name = "measure_costs"
    needs = ("program", "pool")
    provides = ("costs", "pool")

    def run(self, compilation: Compilation) -> Compilation:
        program, pool = compilation.need("program"), compilation.need("pool")
        batch = compilation.target.batch
        modules, pool = _build_all(compilation, program, pool)
        counted = _count(program, pool, modules)
        constants, teacher = _count_whole(compilation, program)
        how = dict.fromkeys(counted, "counted")
        scale = 1.0
        costs: dict[str, Mapping[str, Mapping[OpSpec, float]]] = dict(counted)
        if LATENCY in compilation.resources:
            parts = {
                slot.name: {
                    op: _part(compilation, module, (slot.input_spec.with_batch(batch),))
                    for op, module in modules[slot.name].items()
                }
                for slot in program.slots
            }
            latency = _measure(compilation, program, parts, self.rounds)
            costs[LATENCY], constants[LATENCY] = latency.costs, latency.constant
            teacher[LATENCY], how[LATENCY], scale = latency.teacher, "measured", latency.scale
            pool = {
                name: tuple(op for op in ops if op in latency.costs[name])
                for name, ops in pool.items()
            }
        return compilation.having(costs=CostTable(costs, constants, teacher, how, scale), pool=pool)


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


@dataclass(frozen=True)
class _Latency:
    costs: dict[str, dict[OpSpec, float]]
    constant: float
    teacher: float
    scale: float


def _measure(
    compilation: Compilation,
    program: Program,
    parts: Mapping[str, Mapping[OpSpec, Part]],
    rounds: int,
) -> _Latency:
    """Latency of all parts, scaled so that the teacher's sum to the measured whole teacher.

    What one call of the runtime costs by itself is in every measurement but only once in a whole
    network: it is measured apart and taken out of the parts.
    """
    batch = compilation.target.batch
    whole = _part(
        compilation,
        program.teacher,
        tuple(spec.with_batch(batch) for spec in program.input_specs),
    )
    call = _part(compilation, nn.ReLU(), (TensorSpec((1, 1), torch.float32),))
    outside = program.outside()
    rest = None
    if outside is not None:
        specs = tuple(spec.with_batch(batch) for spec in outside[1])
        rest = _part(compilation, outside[0], specs)
    distinct = {
        part.key: part for ops in parts.values() for op, part in ops.items() if op != IDENTITY
    }
    distinct[call.key] = call
    if rest is not None:
        distinct[rest.key] = rest
    times = _time_parts(compilation, whole, list(distinct.values()), rounds)

    call_ms, teacher_ms = times[call.key], times[whole.key]
    own = [max(times[parts[slot.name][TEACHER].key] - call_ms, _FLOOR_MS) for slot in program.slots]
    rest_ms = max(times.get(rest.key, math.nan) - call_ms, 0.0) if rest is not None else 0.0
    if math.isnan(rest_ms):
        rest_ms = 0.0
    scale = (teacher_ms - call_ms) / (sum(own) + rest_ms)
    costs = {
        name: {
            op: 0.0 if op == IDENTITY else scale * max(times[part.key] - call_ms, _FLOOR_MS)
            for op, part in ops.items()
            if op == IDENTITY or part.key in times
        }
        for name, ops in parts.items()
    }
    return _Latency(costs, call_ms + scale * rest_ms, teacher_ms, scale)


def _part(compilation: Compilation, module: nn.Module, specs: tuple[TensorSpec, ...]) -> Part:
    text = signature(module, specs[0]) + "".join(map(str, specs[1:]))
    runtime = onnxruntime.version()
    return Part(key_of("latency", text, compilation.target, runtime), module, specs)


def _time_parts(
    compilation: Compilation, whole: Part, parts: Sequence[Part], rounds: int
) -> dict[str, float]:
    """Milliseconds by key; what was measured before is taken from the workspace.

    Every group is interleaved with the whole teacher, and its times are brought to the scale of
    the teacher's first measurement, so that groups of different hours compare.
    """
    workspace, instruments = compilation.workspace, compilation.instruments
    found = {
        part.key: stored.value
        for part in parts
        if (stored := workspace.get("latency", _relative(part, whole))) is not None
    }
    missing = [part for part in parts if part.key not in found]
    stored = workspace.get("latency", whole.key)
    reference_ms: float | None = None if stored is None else stored.value
    threads = compilation.target.threads
    whole_run = onnxruntime.timed_run(
        onnxruntime.export_for_timing(whole.module, _zeros(whole)), _zeros(whole), threads
    )
    groups = [missing[start : start + _GROUP] for start in range(0, len(missing), _GROUP)]
    if reference_ms is None and not groups:
        groups = [[]]
    with (
        workspace.lock("measuring", "is measuring latencies", wait=True),
        instruments.progress("measuring latencies", len(groups) * rounds) as advance,
    ):
        for group in groups:
            runs, kept = [whole_run], []
            for part in group:
                try:
                    model = onnxruntime.export_for_timing(part.module, _zeros(part))
                    runs.append(onnxruntime.timed_run(model, _zeros(part), threads))
                    kept.append(part)
                except BackendError as error:
                    instruments.warn(f"dropped an op that cannot be timed: {error}")
            whole_time, *times = time_interleaved(
                runs, threads=threads, rounds=rounds, progress=lambda _: advance(1)
            )
            if reference_ms is None:
                reference_ms = whole_time.median_ms
                workspace.put("latency", whole.key, Result(reference_ms))
            for part, timing in zip(kept, times, strict=True):
                found[part.key] = timing.median_ms * reference_ms / whole_time.median_ms
                workspace.put("latency", _relative(part, whole), Result(found[part.key]))
    if reference_ms is None:
        raise RuntimeError("the whole teacher was not measured")
    found[whole.key] = reference_ms
    return found


def _relative(part: Part, whole: Part) -> str:
    """Times are on the scale of one teacher's measurement."""
    return key_of(part.key, whole.key)


def _zeros(part: Part) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in part.specs)
