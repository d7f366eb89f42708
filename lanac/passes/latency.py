"""Latencies of all ops of a pool, measured so that they add up to whole networks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from lanac.compilation import Compilation, Dropped
from lanac.errors import BackendError
from lanac.ir import IDENTITY, TEACHER, OpSpec, Program, Slot, TensorSpec
from lanac.passes.op_modules import OpModules
from lanac.passes.time_parts import Part, PartTimer
from lanac.passes.worth_timing import Worth
from lanac.targets import PARAMS, Effort
from lanac.targets.additive import AdditiveModel, Sums, fit_additive
from lanac.targets.predicted import PredictedTable
from lanac.workspace import key_of

Counts = Mapping[str, Mapping[str, Mapping[OpSpec, float]]]
"""Counted costs by resource, slot name and op."""

_FLOOR_MS = 1e-4  # an op costs something, even where it measures as free
_SESSIONS = 3  # of each whole network


@dataclass(frozen=True)
class Whole:
    """A random network whose parts were summed up, and that was measured as a whole.

    Attributes:
        predicted_ms: the sum.
        measured_ms: the whole.
    """

    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Latencies:
    """What ops and the rest of the network take on the target, in milliseconds.

    Attributes:
        costs: by slot name and op; ops without a latency are missing.
        constant: what lies outside the slots, and the runtime's own call.
        teacher: the whole teacher.
        error: mean relative error of the sum of parts over whole networks.
        failed: the ops that have no latency because they failed.
        how: where the figures come from: "measured", "imported", "predicted".
        elsewhere: on what they were measured, where that is not this machine; else empty.
        wholes: the networks that `error` is of.
        passed_over: how many ops were not timed because they cannot be cheaper than what they
            would replace.
        prediction: the latencies by kernel class, where they are predicted.
        energy_mj: energy by slot name and op, where the source has it.
        energy_constant_mj, energy_teacher_mj: the same outside the slots, and of the teacher.
    """

    costs: dict[str, dict[OpSpec, float]]
    constant: float
    teacher: float
    error: float
    failed: tuple[Dropped, ...] = ()
    how: str = "measured"
    elsewhere: str = ""
    wholes: tuple[Whole, ...] = ()
    passed_over: int = 0
    prediction: PredictedTable | None = None
    energy_mj: dict[str, dict[OpSpec, float]] | None = None
    energy_constant_mj: float = 0.0
    energy_teacher_mj: float = 0.0


@dataclass(frozen=True)
class Thoroughness:
    """How a cost table is measured.

    Attributes:
        parts: how long each op is timed.
        networks: how many whole networks the sum of parts is fitted on.
        wholes: how long each of them is timed.
        everything: whether ops that cannot be cheaper than what they would replace are timed too.
    """

    parts: Effort = field(default_factory=lambda: Effort(least=7, most=31))
    networks: int = 16
    wholes: Effort = field(
        default_factory=lambda: Effort(within=0.015, least=11, most=41, warmups=3)
    )
    everything: bool = False


def measure_latencies(
    compilation: Compilation, modules: OpModules, counted: Counts, how: Thoroughness
) -> Latencies:
    """Measures every distinct op once, and a few whole networks that the parts have to add up to.

    Args:
        compilation: with a program.
        modules: builds the ops.
        counted: counted costs of the ops to measure, the teacher's among them.
        how: how long.
    """
    with PartTimer(compilation) as timer:
        measurement = _Measurement(compilation, timer, modules, counted, how)
        measurement.time_parts()
        model = measurement.fit()
    return measurement.latencies(model)


class _Measurement:
    """The state of one measurement: parts, their times, the teacher as reference."""

    def __init__(
        self,
        compilation: Compilation,
        timer: PartTimer,
        modules: OpModules,
        counted: Counts,
        how: Thoroughness,
    ) -> None:
        self.compilation, self.timer, self.modules = compilation, timer, modules
        self.counted, self.how = counted, how
        self.program: Program = compilation.need("program")
        self.call = timer.part(nn.ReLU(), (TensorSpec((1, 1), torch.float32),))
        self.parts = {
            slot.name: {
                op: self._op(slot, op) for op in counted[PARAMS][slot.name] if op != IDENTITY
            }
            for slot in self.program.slots
        }
        outside = self.program.outside()
        self.rest: Part | None = None
        if outside is not None:
            batch = compilation.target.batch
            self.rest = timer.part(outside[0], tuple(spec.with_batch(batch) for spec in outside[1]))
        self.wholes: list[tuple[Sums, Part]] = []

    def time_parts(self) -> None:
        """Times the teacher's own ops first, then the others from the smallest to the largest."""
        self.timer.time(self._own_parts(), "measuring the teacher", self.how.parts)
        self._check_own()
        worth = Worth(self.compilation, self.counted, self.parts, self.timer, self._own_ms)
        if self.how.everything:
            parts = worth.in_order()
            self.timer.time(parts, "measuring latencies", self.how.parts)
        else:
            worth.measure_peak(self.how.parts)
            self.timer.time(
                worth.in_order(),
                "measuring latencies",
                self.how.parts,
                worth=worth.is_worth_timing,
            )

    def _own_parts(self) -> list[Part]:
        own = [self.call, *(ops[TEACHER] for ops in self.parts.values())]
        own += [self.rest] if self.rest is not None else []
        return list({part.key: part for part in own}.values())

    def _check_own(self) -> None:
        runtime = self.compilation.target.runtime
        for part, what in (
            (self.call, "a single call"),
            (self.rest, "what lies outside the slots"),
        ):
            if part is not None and part.key in self.timer.failures:
                self.compilation.instruments.warn(
                    f"{what} is not timed: {self.timer.failures[part.key]}"
                )
        for name, ops in self.parts.items():
            if ops[TEACHER].key not in self.timer.times:
                raise BackendError(
                    f"slot {name!r} cannot be timed: {runtime} does not run what the teacher "
                    f"computes there ({self.timer.failures[ops[TEACHER].key]}). Leave it as it is "
                    f"with --skip {name!r}"
                )

    def fit(self) -> AdditiveModel:
        """Times whole networks and fits how their parts add up."""
        rng = random.Random(self.compilation.seed)
        teacher = dict.fromkeys((slot.name for slot in self.program.slots), TEACHER)
        count = self.how.networks
        plans = [self._random_plan(rng, 0.8 * place / count) for place in range(count)]
        own = self._network(teacher)
        networks = {part.key: (plan, part) for plan in plans for part in [self._network(plan)]}
        wholes = [part for _, part in networks.values()]
        self.timer.time(
            [own, *wholes], "measuring whole networks", self.how.wholes, sessions=_SESSIONS
        )
        self.timer.warn_if_noisy()
        if own.key not in self.timer.times:
            raise BackendError(f"the teacher cannot be timed: {self.timer.failures[own.key]}")
        self.own = own
        for whole in wholes:
            if whole.key in self.timer.failures:
                self.compilation.instruments.warn(
                    f"a whole network is not timed: {self.timer.failures[whole.key]}"
                )
        timed = [
            (self._sums(plan, whole), whole)
            for plan, whole in networks.values()
            if whole.key in self.timer.times
        ]
        self.wholes = timed
        return fit_additive(self._sums(teacher, own), [sums for sums, _ in timed])

    def latencies(self, model: AdditiveModel) -> Latencies:
        """Every op's share, exact in sum for the teacher."""
        costs: dict[str, dict[OpSpec, float]] = {}
        for slot in self.program.slots:
            own = costs.setdefault(slot.name, {})
            for op in self.counted[PARAMS][slot.name]:
                if op == IDENTITY:
                    own[op] = 0.0
                elif self.parts[slot.name][op].key in self.timer.times:
                    own[op] = model.share(
                        self._alone(slot, op),
                        self._border(slot),
                        self.counted[PARAMS][slot.name][op],
                    )
        teacher = self.timer.times[self.own.key]
        # In a tiny network the runtime's call can measure like the whole: the slots keep a half.
        constant = min(self._call_ms + model.scale * self._rest_ms, teacher / 2)
        # Exact for the teacher, also where a share was held at its least.
        own_sum = sum(costs[slot.name][TEACHER] for slot in self.program.slots)
        factor = (teacher - constant) / own_sum
        costs = {
            name: {op: factor * cost for op, cost in ops.items()} for name, ops in costs.items()
        }
        parts = {part.key for ops in self.parts.values() for part in ops.values()}
        known = self.timer.times.keys() | self.timer.failures.keys()
        return Latencies(
            costs,
            constant,
            teacher,
            model.error,
            self._failed(),
            wholes=tuple(
                Whole(model.predicted(sums) + self._call_ms, sums.whole_ms + self._call_ms)
                for sums, _ in self.wholes
            ),
            passed_over=len(parts - known),
        )

    def _failed(self) -> tuple[Dropped, ...]:
        return tuple(
            Dropped(
                name,
                op,
                f"op {op} of slot {name!r} cannot be timed: {self.timer.failures[part.key]}",
            )
            for name, ops in self.parts.items()
            for op, part in ops.items()
            if part.key in self.timer.failures
        )

    @property
    def _call_ms(self) -> float:
        return self.timer.times.get(self.call.key, 0.0)

    @property
    def _rest_ms(self) -> float:
        if self.rest is None or self.rest.key not in self.timer.times:
            return 0.0
        return max(self.timer.times[self.rest.key] - self._call_ms, 0.0)

    def _own_ms(self, part: Part) -> float:
        """What a timed part takes without the runtime's call."""
        return max(self.timer.times[part.key] - self._call_ms, _FLOOR_MS)

    def _alone(self, slot: Slot, op: OpSpec) -> float:
        return 0.0 if op == IDENTITY else self._own_ms(self.parts[slot.name][op])

    def _border(self, slot: Slot) -> float:
        batch = self.compilation.target.batch
        specs = slot.input_spec.with_batch(batch), slot.output_spec.with_batch(batch)
        return float(sum(spec.nbytes() for spec in specs))

    def _sums(self, plan: Mapping[str, OpSpec], whole: Part) -> Sums:
        slots = [slot for slot in self.program.slots if plan[slot.name] != IDENTITY]
        return Sums(
            self._rest_ms + sum(self._alone(slot, plan[slot.name]) for slot in slots),
            sum(self._border(slot) for slot in slots),
            sum(self.counted[PARAMS][slot.name][plan[slot.name]] for slot in slots),
            len(slots),
            self._own_ms(whole),
        )

    def _random_plan(self, rng: random.Random, keep: float) -> dict[str, OpSpec]:
        """Each slot keeps the teacher's op with a probability of `keep`.

        What is slower than the teacher's op is in no plan that is ever selected for its latency.
        """
        plan = {}
        for slot in self.program.slots:
            own = self._alone(slot, TEACHER)
            faster = [
                op
                for op in self.counted[PARAMS][slot.name]
                if op == IDENTITY
                or (
                    self.parts[slot.name][op].key in self.timer.times
                    and self._alone(slot, op) <= own
                )
            ]
            plan[slot.name] = TEACHER if rng.random() < keep else rng.choice(faster)
        return plan

    def _op(self, slot: Slot, op: OpSpec) -> Part:
        specs = (slot.input_spec.with_batch(self.compilation.target.batch),)
        key = self.timer.key(self.modules.signature(slot, op), specs)
        return Part(
            key, lambda: self.modules.get(slot, op), specs, self.counted[PARAMS][slot.name][op]
        )

    def _network(self, plan: Mapping[str, OpSpec]) -> Part:
        def make() -> nn.Module:
            changed = [slot for slot in self.program.slots if plan[slot.name] != TEACHER]
            return self.program.rewrite(
                {slot.name: self.modules.get(slot, plan[slot.name]) for slot in changed}
            )

        key = self.compilation.families.key
        ops = [(slot.nodes, key(plan[slot.name])) for slot in self.program.slots]
        whole = self.timer.whole
        name = key_of("network", whole.key, ops, self.compilation.seed)
        params = sum(self.counted[PARAMS][slot][op] for slot, op in plan.items())
        return replace(whole, key=name, make=make, params=params)
