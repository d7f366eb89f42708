"""From parts measured alone to costs that add up to whole networks.

A part measured alone does things that it does not do inside a network, and the other way round: the
runtime's own call; the conversion of its input and output between the plain and the runtime's inner
layout, which neighbours in a network share; and weights and activations that stay in the caches from
one call to the next, where in a network everything else passes through them in between. The call is
measured apart. The others are proportional to the bytes at the part's border, to its weights, and to
the number of parts, so that

    whole = call + sum of (scale * alone + a * border_bytes + b * weights + c)

where a, b and c may have either sign: on one machine the conversion decides, on another the caches.
They are fitted on a few whole networks by ridge regression, which takes from a correction what the
networks do not speak for, and the sum is brought to the teacher's measurement exactly. Which terms
help was found by measurement (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST = 0.1  # no correction makes a part cheaper than this share of its own measurement
_RIDGE = 0.1  # on corrections, as shares of the teacher's latency
_TEACHER = 10.0  # the weight of the teacher's own equation

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """A whole network: its parts' sums, and what it measures.

    Attributes:
        alone_ms: sum of its parts' latencies measured alone, the runtime's call taken out.
        border_bytes: sum of the bytes that enter and leave its parts.
        weights: how many its parts have.
        parts: how many there are.
        whole_ms: measured as a whole, the runtime's call taken out.
    """

    alone_ms: float
    border_bytes: float
    weights: float
    parts: float
    whole_ms: float

    def terms(self) -> Floats:
        return np.array([self.alone_ms, self.border_bytes, self.weights, self.parts])


@dataclass(frozen=True)
class AdditiveModel:
    """Turns a part's measurement into its share of a network's latency.

    Attributes:
        scale: factor on what was measured alone.
        ms_per_byte: added per byte at the part's border.
        ms_per_weight: added per weight.
        ms_per_part: added.
        error: mean relative error of the sum over networks that each was left out of the fit.
    """

    scale: float
    ms_per_byte: float
    ms_per_weight: float
    ms_per_part: float
    error: float

    def share(self, alone_ms: float, border_bytes: float, weights: float) -> float:
        """Milliseconds that the part adds to a network."""
        scaled = self.scale * alone_ms
        added = self.ms_per_byte * border_bytes + self.ms_per_weight * weights + self.ms_per_part
        return max(scaled + added, _LEAST * scaled)

    def predicted(self, network: Sums) -> float:
        """Milliseconds of a whole network by its sums, the runtime's call taken out."""
        factors = (self.scale, self.ms_per_byte, self.ms_per_weight, self.ms_per_part)
        return float(np.dot(factors, network.terms()))


def fit_additive(teacher: Sums, networks: Sequence[Sums]) -> AdditiveModel:
    """Fits the model: exact for the teacher, least squares of relative errors for the others."""
    errors = []
    for place, network in enumerate(networks):
        others = [*networks[:place], *networks[place + 1 :]]
        predicted = float(np.dot(_factors(teacher, others), network.terms()))
        errors.append(abs(predicted / network.whole_ms - 1))
    error = sum(errors) / len(errors) if errors else 0.0
    scale, per_byte, per_weight, per_part = map(float, _factors(teacher, networks))
    return AdditiveModel(scale, per_byte, per_weight, per_part, error)


def _factors(teacher: Sums, networks: Sequence[Sums]) -> Floats:
    """The factors of the terms."""
    # In shares of the teacher's latency, so that one ridge fits all terms and networks.
    units = np.where(teacher.terms() > 0, teacher.whole_ms / np.maximum(teacher.terms(), 1e-12), 0)
    rows = np.array([item.terms() * units / item.whole_ms for item in (teacher, *networks)])
    importance = np.array([_TEACHER, *(1.0 for _ in networks)])
    ridge = np.sqrt(_RIDGE) * np.diag([0.0, 1.0, 1.0, 1.0])
    left = np.vstack([rows * importance[:, None], ridge])
    right = np.concatenate([importance, np.zeros(len(ridge))])
    factors = np.linalg.lstsq(left, right, rcond=None)[0] * units
    exact: Floats = factors * teacher.whole_ms / np.dot(factors, teacher.terms())
    return exact
