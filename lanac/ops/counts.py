"""What the parts of an op cost, by formula."""

from __future__ import annotations

import math

from lanac.ir import TensorSpec
from lanac.ops.base import Counts


def conv_counts(
    positions: int, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = False
) -> Counts:
    """A convolution with square kernel that computes so many positions; a linear layer, too."""
    weights = inputs // groups * outputs * kernel**2
    return Counts(weights + outputs * bias, 2 * positions * weights)


def attention_counts(queries: int, keys: int, channels: int) -> Counts:
    """Scores and weighted sums of all heads together, `channels` wide."""
    return Counts(0, 4 * queries * keys * channels)


def norm_counts(channels: int) -> Counts:
    """Batch norm or layer norm: scale and shift; no flops are counted."""
    return Counts(2 * channels, 0)


def total(*parts: Counts) -> Counts:
    """The sum of all parts."""
    return Counts(sum(part.params for part in parts), sum(part.flops for part in parts))


def conv_norm_counts(
    in_channels: int, out_channels: int, kernel: int, outputs: TensorSpec, *, groups: int = 1
) -> Counts:
    """What `conv_norm` costs; of `outputs`, what leaves it, the height and width count."""
    positions = math.prod(outputs.spatial)
    convolution = conv_counts(positions, in_channels, out_channels, kernel, groups)
    return total(convolution, norm_counts(out_channels))
