"""Latencies of all ops of a pool, measured so that they add up to whole networks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lanac.backends import onnxruntime
from lanac.backends.base import Run
from lanac.compilation import Compilation, Dropped
from lanac.errors import BackendError
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, Slot, TensorSpec, signature
from lanac.passes.op_modules import OpModules
from lanac.targets import time_interleaved
from lanac.targets.additive import AdditiveModel, Sums, fit_additive
from lanac.workspace import Result, key_of

_GROUP = 24  # sessions open at once, each group with its own reference: bounds memory
_GROUP_PARAMS = 50e6  # and so many weights in them, at least one session
_FLOOR_MS = 1e-4  # an op costs something, even where it measures as free


@dataclass(frozen=True)
class Part:
    """Something to be timed.

    Attributes:
        key: of what it is.
        make: builds it; what a large pool holds together does not fit into memory.
        specs: of its inputs.
        params: how many weights it has, about.
    """

    key: str
    make: Callable[[], nn.Module]
    specs: tuple[TensorSpec, ...]
    params: float = 0.0


@dataclass(frozen=True)
class Latencies:
    """What the measurement gave, in milliseconds.

    Attributes:
        costs: by slot name and op; ops that cannot be timed are missing.
        constant: what lies outside the slots, and the runtime's own call.
        teacher: the whole teacher.
        error: mean relative error of the sum of parts over whole networks.
        failed: the ops that cannot be timed.
    """

    costs: dict[str, dict[OpSpec, float]]
    constant: float
    teacher: float
    error: float
    failed: tuple[Dropped, ...] = ()


def measure_latencies(
    compilation: Compilation,
    modules: OpModules,
    params: Mapping[str, Mapping[OpSpec, float]],
    rounds: int,
    networks: int,
) -> Latencies:
    """Measures every distinct op once, and a few whole networks that the parts have to add up to.

    Args:
        compilation: with a program.
        modules: builds the ops.
        params: the ops to measure by slot name, the teacher's among them, with their weights' number.
        rounds: how often each is timed.
        networks: how many whole networks.
    """
    measurement = _Measurement(compilation, modules, params)
    measurement.time_parts(rounds)
    model = measurement.fit(rounds, networks)
    return measurement.latencies(model)


class _Measurement:
    """The state of one measurement: parts, their times, the teacher as reference."""

    def __init__(
        self,
        compilation: Compilation,
        modules: OpModules,
        params: Mapping[str, Mapping[OpSpec, float]],
    ) -> None:
        self.compilation, self.modules, self.params = compilation, modules, params
        self.program: Program = compilation.need("program")
        batch = compilation.target.batch
        self.inputs = tuple(spec.with_batch(batch) for spec in self.program.input_specs)
        self.whole = _part(compilation, self.program.teacher, self.inputs)
        self.call = _part(compilation, nn.ReLU(), (TensorSpec((1, 1), torch.float32),))
        self.parts = {
            slot.name: {op: self._op(slot, op) for op in params[slot.name] if op != IDENTITY}
            for slot in self.program.slots
        }
        self._op_keys = {part.key for ops in self.parts.values() for part in ops.values()}
        outside = self.program.outside()
        self.rest: Part | None = None
        if outside is not None:
            specs = tuple(spec.with_batch(batch) for spec in outside[1])
            self.rest = _part(compilation, outside[0], specs)
        self.times: dict[str, float] = {}
        self.failures: dict[str, str] = {}

    def time_parts(self, rounds: int) -> None:
        distinct = {part.key: part for ops in self.parts.values() for part in ops.values()}
        distinct[self.call.key] = self.call
        if self.rest is not None:
            distinct[self.rest.key] = self.rest
        self._time(list(distinct.values()), rounds, "measuring latencies")
        for name, ops in self.parts.items():
            if ops[TEACHER].key not in self.times:
                raise BackendError(
                    f"slot {name!r} cannot be timed: ONNX Runtime does not run what the teacher "
                    f"computes there. Leave it as it is with --skip {name!r}"
                )

    def fit(self, rounds: int, networks: int) -> AdditiveModel:
        """Times whole networks and fits how their parts add up."""
        rng = random.Random(self.compilation.seed)
        plans = [self._random_plan(rng) for _ in range(networks)]
        wholes = [self._network(plan) for plan in plans]
        self._time(wholes, rounds, "measuring whole networks")
        teacher = dict.fromkeys((slot.name for slot in self.program.slots), TEACHER)
        timed = [(p, w) for p, w in zip(plans, wholes, strict=True) if w.key in self.times]
        return fit_additive(
            self._sums(teacher, self.whole), [self._sums(plan, whole) for plan, whole in timed]
        )

    def latencies(self, model: AdditiveModel) -> Latencies:
        costs: dict[str, dict[OpSpec, float]] = {}
        for slot in self.program.slots:
            own = costs.setdefault(slot.name, {})
            for op in self.params[slot.name]:
                if op == IDENTITY:
                    own[op] = 0.0
                elif self.parts[slot.name][op].key in self.times:
                    own[op] = model.share(self._alone(slot, op), self._border(slot))
        teacher = self.times[self.whole.key]
        # In a tiny network the runtime's call can measure like the whole: the slots keep a half.
        constant = min(self._call_ms + model.scale * self._rest_ms, teacher / 2)
        # Exact for the teacher, also where a share was held at its least.
        own_sum = sum(costs[slot.name][TEACHER] for slot in self.program.slots)
        factor = (teacher - constant) / own_sum
        costs = {
            name: {op: factor * cost for op, cost in ops.items()} for name, ops in costs.items()
        }
        return Latencies(costs, constant, teacher, model.error, self._failed())

    def _failed(self) -> tuple[Dropped, ...]:
        return tuple(
            Dropped(
                name, op, f"op {op} of slot {name!r} cannot be timed: {self.failures[part.key]}"
            )
            for name, ops in self.parts.items()
            for op, part in ops.items()
            if part.key in self.failures
        )

    @property
    def _call_ms(self) -> float:
        return self.times[self.call.key]

    @property
    def _rest_ms(self) -> float:
        if self.rest is None or self.rest.key not in self.times:
            return 0.0
        return max(self.times[self.rest.key] - self._call_ms, 0.0)

    def _alone(self, slot: Slot, op: OpSpec) -> float:
        if op == IDENTITY:
            return 0.0
        return max(self.times[self.parts[slot.name][op].key] - self._call_ms, _FLOOR_MS)

    def _border(self, slot: Slot) -> float:
        batch = self.compilation.target.batch
        specs = slot.input_spec.with_batch(batch), slot.output_spec.with_batch(batch)
        return float(sum(spec.nbytes() for spec in specs))

    def _sums(self, plan: Mapping[str, OpSpec], whole: Part) -> Sums:
        slots = [slot for slot in self.program.slots if plan[slot.name] != IDENTITY]
        return Sums(
            self._rest_ms + sum(self._alone(slot, plan[slot.name]) for slot in slots),
            sum(self._border(slot) for slot in slots),
            max(self.times[whole.key] - self._call_ms, _FLOOR_MS),
        )

    def _random_plan(self, rng: random.Random) -> dict[str, OpSpec]:
        """Each slot keeps the teacher's op with a probability that is itself drawn."""
        keep = rng.random()
        plan = {}
        for slot in self.program.slots:
            timed = [
                op
                for op in self.params[slot.name]
                if op == IDENTITY or self.parts[slot.name][op].key in self.times
            ]
            plan[slot.name] = TEACHER if rng.random() < keep else rng.choice(timed)
        return plan

    def _op(self, slot: Slot, op: OpSpec) -> Part:
        specs = (slot.input_spec.with_batch(self.compilation.target.batch),)
        key = _key(self.compilation, self.modules.signature(slot, op), specs)
        return Part(key, lambda: self.modules.get(slot, op), specs, self.params[slot.name][op])

    def _network(self, plan: Mapping[str, OpSpec]) -> Part:
        def make() -> nn.Module:
            changed = [slot for slot in self.program.slots if plan[slot.name] != TEACHER]
            return self.program.rewrite(
                {slot.name: self.modules.get(slot, plan[slot.name]) for slot in changed}
            )

        key = self.compilation.families.key
        ops = [(slot.nodes, key(plan[slot.name])) for slot in self.program.slots]
        name = key_of("network", self.whole.key, ops, self.compilation.seed)
        params = sum(self.params[slot][op] for slot, op in plan.items())
        return Part(name, make, self.inputs, params)

    def _time(self, parts: Sequence[Part], rounds: int, what: str) -> None:
        """Adds milliseconds by key; what was measured before is taken from the workspace.

        Every group is interleaved with the whole teacher, and its times are brought to the scale
        of the teacher's first measurement, so that groups of different hours compare.
        """
        workspace, threads = self.compilation.workspace, self.compilation.target.threads
        for part in parts:
            stored = workspace.get("latency", self._relative(part))
            if stored is not None:
                self.times[part.key] = stored.value
        missing = [part for part in parts if part.key not in self.times]
        first = workspace.get("latency", self.whole.key)
        if first is not None:
            self.times[self.whole.key] = first.value
        if not missing:
            return
        whole_run = self._run(self.whole)
        groups = list(_groups(missing))
        with (
            workspace.lock("measuring", "is measuring latencies", wait=True),
            self.compilation.instruments.progress(what, len(groups) * rounds) as advance,
        ):
            for group in groups:
                runs, kept = [whole_run], []
                for part in group:
                    try:
                        runs.append(self._run(part))
                        kept.append(part)
                    except BackendError as error:
                        self.failures[part.key] = str(error)
                        if part.key not in self._op_keys:
                            self.compilation.instruments.warn(f"not timed: {error}")
                reference, *times = time_interleaved(
                    runs, threads=threads, rounds=rounds, progress=lambda _: advance(1)
                )
                if self.whole.key not in self.times:
                    self.times[self.whole.key] = reference.median_ms
                    workspace.put("latency", self.whole.key, Result(reference.median_ms))
                for part, timing in zip(kept, times, strict=True):
                    ratio = timing.median_ms / reference.median_ms
                    self.times[part.key] = ratio * self.times[self.whole.key]
                    value = Result(self.times[part.key])
                    workspace.put("latency", self._relative(part), value)

    def _run(self, part: Part) -> Run:
        zeros = tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in part.specs)
        model = onnxruntime.export_for_timing(part.make(), zeros)
        return onnxruntime.timed_run(model, zeros, self.compilation.target.threads)

    def _relative(self, part: Part) -> str:
        """Times are on the scale of one teacher's measurement."""
        return key_of(part.key, self.whole.key)


def _part(compilation: Compilation, module: nn.Module, specs: tuple[TensorSpec, ...]) -> Part:
    return Part(_key(compilation, signature(module, specs[0]), specs), lambda: module, specs)


def _key(compilation: Compilation, what: str, specs: tuple[TensorSpec, ...]) -> str:
    """`what` is the signature of a module; its inputs, the target and the runtime count as well."""
    shapes = [(str(spec), spec.shape) for spec in specs]
    return key_of(
        "latency",
        what,
        shapes,
        str(compilation.target),
        onnxruntime.RUNTIME.version(compilation.target),
    )


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that are timed together, in order."""
    group: list[Part] = []
    params = 0.0
    for part in parts:
        params += part.params
        if group and (len(group) == _GROUP or params > _GROUP_PARAMS):
            yield group
            group, params = [], part.params
        group.append(part)
    if group:
        yield group
