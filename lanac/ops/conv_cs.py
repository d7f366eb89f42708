"""Two convolutions with a perturbation between them that costs no arithmetic."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import conv_norm
from lanac.ops.values import KERNEL, word

SHUFFLE, SHIFT = "shuffle", "shift"
_GROUPS = 4  # of the convolutions around a shuffle, at most


class Shuffle(nn.Module):
    """Channels of all groups in turn (ShuffleNet): (B, C, H, W) -> the same.

    The same as `nn.ChannelShuffle`, which the older ONNX exporter does not know.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        grouped = x.reshape(-1, self.groups, self.channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(-1, self.channels, height, width)


class Shift(nn.Module):
    """Fifths of the channels stay, or move by one pixel to one of four sides; zeros come in.

    (B, C, H, W) -> the same. "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial
    Convolutions" (Wu et al., CVPR 2018).
    """

    _STEPS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bounds = [round(part * channels / 5) for part in range(6)]

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1))
        parts = [
            padded[:, first:last, _window(down), _window(right)]
            for (down, right), (first, last) in zip(self._STEPS, pairwise(self.bounds), strict=True)
            if last > first
        ]
        return torch.cat(parts, 1)


def _window(step: int) -> slice:
    """What to read of a dimension padded by one on both sides, `step` places further on."""
    return slice(1 + step, (step - 1) or None)


class ConvCsFamily(MapFamily):
    """Paper, section 3, `conv_cs` (CBR pairs with perturbations): k in {1, 3, 5, 7}.

    The paper does not say what its perturbations are; here they are

    - p=shuffle: channel shuffle, between convolutions of up to four groups. Between dense ones it
      would do nothing: a permutation of channels is absorbed by the next weights;
    - p=shift: parts of the channels are shifted by one pixel, between dense convolutions.

    The last ReLU comes after the sum and only where the teacher's op ends in one, as everywhere
    here: without that a slot could not get its negative values.
    """

    name = "conv_cs"
    equation = "y = [x +] BN Conv_k( P( ReLU BN Conv_k(x) ) ), P: channel shuffle or shift"
    grid = (("k", (1, 3, 5, 7)), ("p", (SHUFFLE, SHIFT)))
    option_values = (("k", KERNEL), ("p", word(SHUFFLE, SHIFT)))

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, groups = int(op.number("k")), _groups(op, view)
        perturbation = Shuffle(before, groups) if op["p"] == SHUFFLE else Shift(before)
        return [
            *conv_norm(before, before, kernel, stride=view.stride or 1, groups=groups),
            nn.ReLU(),
            perturbation,
            *conv_norm(before, after, kernel, groups=groups),
        ]

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, groups, outputs = int(op.number("k")), _groups(op, view), view.output_spec
        return total(
            conv_norm_counts(before, before, kernel, outputs, groups=groups),
            conv_norm_counts(before, after, kernel, outputs, groups=groups),
        )


def _groups(op: OpSpec, view: SlotView) -> int:
    """Groups of both convolutions: what divides input and output channels, at most four."""
    if op["p"] == SHIFT:
        return 1
    return math.gcd(_GROUPS, view.input_spec.channels, view.output_spec.channels)


FAMILY = ConvCsFamily()
