"""Anchors: a few measured networks bring the predictions for a target to its own scale.

The logarithm of measured over predicted latency is one error that all networks share (the device, the
framework's age), one for each kernel class in proportion to its share, and one of the network's own. All
have known standard deviations, so that what the anchors say about each follows by Bayes' rule for normal
distributions: one anchor moves everything alike, several tell the classes apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lanac.errors import PredictionError
from lanac.targets.predicted.prediction import PartCost, Prediction, with_interval

Array = npt.NDArray[np.float64]
_MEASURED = 0.02
"""How far measurements scatter."""

_LEAST = 0.02
_FARTHEST = 30.0
"""An anchor that is off by more is taken for a mistake in the unit."""


@dataclass(frozen=True)
class Anchor:
    """A network that was measured on the target.

    Attributes:
        name: what it is called.
        prediction: for the target, without anchors.
        measured_ms: of one inference with the target's batch.
    """

    name: str
    prediction: Prediction
    measured_ms: float


@dataclass(frozen=True)
class Calibration:
    """What anchors say about a target.

    Attributes:
        names: of the anchors.
        factors: by kernel class, what predicted milliseconds are multiplied with.
        anchors: the anchors.
        errors: standard deviations by class.
    """

    names: tuple[str, ...]
    factors: Mapping[str, float]
    _anchors: tuple[Anchor, ...]
    _errors: Mapping[str, float]

    def apply(self, prediction: Prediction) -> Prediction:
        """The prediction as the anchors bring it, with the narrower interval that they leave.

        An anchor itself is given its own measurement.
        """
        mean, variance = self._posterior(prediction)
        same = any(_is_same(prediction, anchor.prediction) for anchor in self._anchors)
        before = prediction.cost
        wanted = math.exp(mean) * before.latency_ms
        moved = before.scaled_by_class(self.factors)
        cost = moved.scaled(wanted / moved.latency_ms) if moved.latency_ms else moved
        ratio = _MEASURED if same else prediction.ratio_spread
        return with_interval(
            replace(
                prediction, latency_ms=wanted, cost=cost, spread=math.sqrt(variance),
                ratio_spread=min(ratio, prediction.ratio_spread), anchors=self.names,
            )
        )  # fmt: skip

    def apply_to_part(self, cost: PartCost) -> PartCost:
        """A part's cost as the anchors bring it, class by class."""
        return cost.scaled_by_class(self.factors)

    def _posterior(self, prediction: Prediction) -> tuple[float, float]:
        """Mean and variance of the logarithm of measured over predicted."""
        predictions = [anchor.prediction for anchor in self._anchors]
        known = _covariance(predictions, predictions, self._errors)
        known = known + _MEASURED**2 * np.eye(len(predictions))
        cross = _covariance([prediction], predictions, self._errors)[0]
        weights = np.linalg.solve(known, cross)
        own = _covariance([prediction], [prediction], self._errors)[0, 0]
        return float(weights @ _offsets(self._anchors)), float(
            max(own - weights @ cross, _LEAST**2)
        )


def calibrate(anchors: Sequence[Anchor], errors: Mapping[str, float]) -> Calibration:
    """What measured networks say about the predictions for their target.

    Args:
        anchors: one or more, all for one target.
        errors: standard deviations by class (`Way.errors`).

    Raises:
        PredictionError: no anchors, or a measurement that no prediction comes near to.
    """
    if not anchors:
        raise PredictionError("no anchors are given; one measured network is the least")
    for anchor in anchors:
        factor = anchor.measured_ms / anchor.prediction.latency_ms
        if not 1 / _FARTHEST < factor < _FARTHEST:
            raise PredictionError(
                f"anchor {anchor.name}: measured {anchor.measured_ms:g} ms, predicted "
                f"{anchor.prediction.latency_ms:.3g} ms on {anchor.prediction.target}. They are "
                f"more than {_FARTHEST:g} times apart: check the unit, which is milliseconds for "
                f"the whole batch, and the target's batch, {anchor.prediction.target.batch}"
            )
    predictions = [anchor.prediction for anchor in anchors]
    known = _covariance(predictions, predictions, errors) + _MEASURED**2 * np.eye(len(anchors))
    solved = np.linalg.solve(known, _offsets(anchors))
    common = np.array([_common(prediction, errors) for prediction in predictions])
    shared = float(np.min(common) * np.sum(solved))
    kinds = sorted({kind for prediction in predictions for kind in prediction.cost.by_class})
    factors = {
        kind: math.exp(
            shared + errors.get(kind, 0.0) ** 2 * float(_shares(predictions, kind) @ solved)
        )
        for kind in kinds
    }
    names = tuple(anchor.name for anchor in anchors)
    return Calibration(names, factors, tuple(anchors), errors)


def ratio_spread(first: Prediction, second: Prediction, errors: Mapping[str, float]) -> float:
    """Standard deviation of the logarithm of the ratio of two networks' latencies.

    Both are for one target, so that what is wrong about it cancels; networks whose kernels are of
    different classes differ by those classes' errors as well.
    """
    both = [first, second]
    known = _covariance(both, both, errors)
    return math.sqrt(max(float(known[0, 0] + known[1, 1] - 2 * known[0, 1]), 0.0))


def _covariance(
    first: Sequence[Prediction], second: Sequence[Prediction], errors: Mapping[str, float]
) -> Array:
    """Of the logarithms of measured over predicted, before anything is measured."""
    kinds = sorted({kind for p in (*first, *second) for kind in p.cost.by_class})
    sigma = np.array([errors.get(kind, 0.0) for kind in kinds])
    one, other = (
        np.array([_shares(predictions, kind) for kind in kinds]).T * sigma
        for predictions in (first, second)
    )
    found: Array = one @ other.T
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            found[i, j] += min(_common(a, errors), _common(b, errors))
            if _is_same(a, b):
                found[i, j] += _own(a)
    return found


def _shares(predictions: Sequence[Prediction], kind: str) -> Array:
    return np.array([p.cost.by_class.get(kind, 0.0) / p.cost.latency_ms for p in predictions])


def _own(prediction: Prediction) -> float:
    """Variance of a network's own error: ratios have it twice."""
    return prediction.ratio_spread**2 / 2


def _common(prediction: Prediction, errors: Mapping[str, float]) -> float:
    """Variance of what all networks share: what the other two leave of the whole."""
    classes = sum(
        (errors.get(kind, 0.0) * ms / prediction.cost.latency_ms) ** 2
        for kind, ms in prediction.cost.by_class.items()
    )
    return max(prediction.spread**2 - _own(prediction) - classes, _LEAST**2)


def _is_same(first: Prediction, second: Prediction) -> bool:
    """Whether two predictions are of the same kernels."""
    one, other = first.cost.by_class, second.cost.by_class
    return (
        first.kernels == second.kernels
        and one.keys() == other.keys()
        and all(math.isclose(one[kind], other[kind], rel_tol=1e-6) for kind in one)
    )


def _offsets(anchors: Sequence[Anchor]) -> Array:
    return np.array([math.log(a.measured_ms / a.prediction.latency_ms) for a in anchors])
