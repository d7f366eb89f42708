"""Predicted latency of modules: whole networks and parts of them, with what is known of the error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import nn

from lanac.ir import TensorSpec
from lanac.targets.predicted.kernels import KernelList, record_kernels
from lanac.targets.predicted.model import Features, latencies_ms, shares
from lanac.targets.predicted.ways import Way, way_of
from lanac.targets.predicted.work import CLASSES
from lanac.targets.target import Target

Array = npt.NDArray[np.float64]

COVERAGE = 0.9
"""How many of the measured latencies the interval is meant to hold."""

SIGMAS = 1.6449
"""Half the width of that interval in standard deviations."""


HOST = "host"
"""The class of what starting kernels costs, where the device waits for it."""


@dataclass(frozen=True)
class PartCost:
    """What a part of a network adds to its latency, as predicted.

    Attributes:
        latency_ms: of all its kernels.
        by_class: milliseconds by kernel class, `host` among them; sums to `latency_ms`.
        by_member: milliseconds with each set of constants that might as well be true.
    """

    latency_ms: float
    by_class: Mapping[str, float]
    by_member: Array = field(default_factory=lambda: np.zeros(1), compare=False, repr=False)

    @classmethod
    def of(cls, by_class: Mapping[str, float], by_member: Array | None = None) -> PartCost:
        """Without members: as if all of them said the same."""
        total = sum(by_class.values())
        return cls(total, dict(by_class), np.array([total]) if by_member is None else by_member)

    def scaled(self, factor: float) -> PartCost:
        return PartCost.of(
            {kind: factor * ms for kind, ms in self.by_class.items()}, factor * self.by_member
        )

    def scaled_by_class(self, factors: Mapping[str, float]) -> PartCost:
        """With every class multiplied by its factor; what the members say moves as the whole does."""
        moved = {kind: ms * factors.get(kind, 1.0) for kind, ms in self.by_class.items()}
        factor = sum(moved.values()) / self.latency_ms if self.latency_ms else 1.0
        return PartCost.of(moved, factor * self.by_member)

    def minus(self, others: Iterable[PartCost]) -> PartCost:
        """What remains of it without others."""
        left, by_member = dict(self.by_class), self.by_member
        for other in others:
            for kind, ms in other.by_class.items():
                left[kind] = left.get(kind, 0.0) - ms
            by_member = by_member - other.by_member
        return PartCost.of(left, by_member)


@dataclass(frozen=True)
class DeviceTime:
    """What the device does for some kernels, before the host is looked at.

    Attributes:
        by_class: milliseconds by kernel class.
        kernels: how many are started.
        by_member: milliseconds of all of them with each set of constants that might as well be true.
    """

    by_class: Mapping[str, float]
    kernels: int
    by_member: Array = field(default_factory=lambda: np.zeros(1), compare=False, repr=False)

    @property
    def ms(self) -> float:
        return sum(self.by_class.values())

    def in_a_network(self, per_ms: float, per_kernel_ms: float) -> PartCost:
        """Its share of a network's latency, with the weights of `model.shares`."""
        costs = {kind: per_ms * ms for kind, ms in self.by_class.items()}
        host = per_kernel_ms * self.kernels
        by_member = per_ms * self.by_member + host
        return PartCost.of({**costs, HOST: host} if host else costs, by_member)


@dataclass(frozen=True)
class Prediction:
    """A predicted latency; never a measurement.

    Attributes:
        latency_ms: of one inference with the target's batch.
        low_ms, high_ms: hold the measured latency in nine of ten cases, as far as is known.
        spread: standard deviation of the logarithm of measured over predicted.
        ratio_spread: the same for the ratio to a similar network's prediction for this target.
        target: what it is for.
        evidence: a sentence on what it rests on.
        cost: the latency by kernel class.
        kernels: how many kernels run.
        anchors: measured networks that it was brought to.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    spread: float
    ratio_spread: float
    target: Target
    evidence: str
    cost: PartCost
    kernels: int
    anchors: tuple[str, ...] = ()

    @property
    def relative_error(self) -> float:
        """Half the width of the interval: 0.15 for +-15 %."""
        return math.expm1(SIGMAS * self.spread)

    @property
    def ratio_error(self) -> float:
        """The same for the ratio to a similar network on the same target."""
        return math.expm1(SIGMAS * self.ratio_spread)

    def __str__(self) -> str:
        return (
            f"predicted {self.latency_ms:.3g} ms ({self.low_ms:.3g} to {self.high_ms:.3g}) "
            f"on {self.target}"
        )


def predict(module: nn.Module, specs: Sequence[TensorSpec], target: Target) -> Prediction:
    """The latency that a network would have on a target, predicted without running it.

    Args:
        module: in eval mode; on any device, the meta device included. Nothing is computed.
        specs: of its inputs; the target's batch takes the place of theirs.
        target: a device whose figures are known.

    Raises:
        PredictionError: nothing is known of the target, or the module cannot be listed.
    """
    way = way_of(target)
    listed = record_kernels(module, [spec.with_batch(target.batch) for spec in specs])
    return predict_kernels(listed, target, way)


def predict_kernels(listed: KernelList, target: Target, way: Way | None = None) -> Prediction:
    """The same for kernels that are listed already, at the target's batch."""
    way = way or way_of(target)
    time = device_time(listed, target, way)
    cost = time.in_a_network(*shares(time.ms, time.kernels, way.constants))
    return with_interval(
        Prediction(
            cost.latency_ms, 0.0, 0.0, way.spread, way.ratio_spread, target, way.evidence, cost,
            time.kernels,
        )
    )  # fmt: skip


def part_time(
    module: nn.Module, specs: Sequence[TensorSpec], target: Target, way: Way | None = None
) -> DeviceTime:
    """What the device does for a part of a network, at the target's batch.

    Raises:
        PredictionError: as for `predict`.
    """
    way = way or way_of(target)
    listed = record_kernels(module, [spec.with_batch(target.batch) for spec in specs])
    return device_time(listed, target, way)


def with_interval(prediction: Prediction) -> Prediction:
    """The prediction with the interval that its spread gives."""
    factor = math.exp(SIGMAS * prediction.spread)
    latency = prediction.latency_ms
    return replace(prediction, low_ms=latency / factor, high_ms=latency * factor)


def device_time(listed: KernelList, target: Target, way: Way) -> DeviceTime:
    """What the device does for recorded kernels, cast and fused as the target runs them."""
    run = way.run(listed, target.precision)
    if not run.kernels:
        return DeviceTime({}, 0)
    by_class: dict[str, float] = {}
    features = Features.of(run)
    taken = latencies_ms(features, way.figures, way.constants) * features.count
    for kind, ms in zip(features.kind, taken, strict=True):
        by_class[CLASSES[kind]] = by_class.get(CLASSES[kind], 0.0) + float(ms)
    by_member = latencies_ms(features, way.figures, way.members) @ features.count
    return DeviceTime(by_class, len(run.kernels), by_member)
