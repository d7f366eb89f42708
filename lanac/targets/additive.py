"""From parts measured alone to costs that add up to whole networks.

A part measured alone does two things that it does not do inside a network: the runtime's own call,
and the conversion of its input and output between the plain and the runtime's inner layout, which
neighbours in a network share. The call is measured apart. The conversion is proportional to the
bytes that cross the part's border; its factor is fitted on a few whole networks, so that

    whole = call + sum of (scale * alone - conversion * border_bytes)

holds for the teacher exactly and for the others as well as it can. Measured on the example, this
brings the mean error from 10 % (scale alone) to 2 % (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAST = 0.1  # no correction makes a part cheaper than this share of its own measurement


@dataclass(frozen=True)
class Sums:
    """A whole network: its parts' sums, and what it measures.

    Attributes:
        alone_ms: sum of its parts' latencies measured alone, the runtime's call taken out.
        border_bytes: sum of the bytes that enter and leave its parts.
        whole_ms: measured as a whole, the runtime's call taken out.
    """

    alone_ms: float
    border_bytes: float
    whole_ms: float


@dataclass(frozen=True)
class AdditiveModel:
    """Turns a part's measurement into its share of a network's latency.

    Attributes:
        scale: factor on what was measured alone.
        conversion_ms_per_byte: taken off per byte at the part's border.
        error: mean relative error of the sum over the networks that it was fitted on.
    """

    scale: float
    conversion_ms_per_byte: float
    error: float

    def share(self, alone_ms: float, border_bytes: float) -> float:
        """Milliseconds that the part adds to a network."""
        scaled = self.scale * alone_ms
        return max(scaled - self.conversion_ms_per_byte * border_bytes, _LEAST * scaled)

    def predicted(self, network: Sums) -> float:
        """Milliseconds of a whole network by its sums, the runtime's call taken out."""
        return self.scale * network.alone_ms - self.conversion_ms_per_byte * network.border_bytes


def fit_additive(teacher: Sums, networks: Sequence[Sums]) -> AdditiveModel:
    """Fits the model: exact for the teacher, least squares of relative errors for the others."""
    ratio = teacher.whole_ms / teacher.alone_ms
    # With the teacher exact, scale = ratio + conversion * teacher.bytes / teacher.alone: what is
    # left is linear in the conversion alone.
    numerator = denominator = 0.0
    for network in networks:
        slope = teacher.border_bytes / teacher.alone_ms * network.alone_ms - network.border_bytes
        residual = network.whole_ms - ratio * network.alone_ms
        numerator += slope * residual / network.whole_ms**2
        denominator += slope**2 / network.whole_ms**2
    conversion = max(0.0, numerator / denominator) if denominator > 0 else 0.0
    scale = ratio + conversion * teacher.border_bytes / teacher.alone_ms
    errors = [
        abs(scale * item.alone_ms - conversion * item.border_bytes - item.whole_ms) / item.whole_ms
        for item in networks
    ]
    return AdditiveModel(scale, conversion, sum(errors) / len(errors) if errors else 0.0)
