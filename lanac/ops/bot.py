"""Bottlenecks with attention in the place of the convolution (Srinivas et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.ir import OpSpec
from lanac.ops.attention import EXPANSIONS, PositionConv, key_pooling, narrowed, widened
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import attention_counts, conv_counts, norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import aligned
from lanac.ops.values import WIDTH

HEADS = 4


class MapAttention(nn.Module):
    """Every position attends to all of a feature map: (B, C, H, W) -> the same.

    With `pooling` r, keys and values are computed from the means of r x r positions.
    """

    def __init__(self, channels: int, heads: int, pooling: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.pool = nn.AvgPool2d(pooling, ceil_mode=True) if pooling > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, (k, v) = self.query(x), self.key_value(self.pool(x)).chunk(2, dim=1)
        y = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v))
        return y.transpose(2, 3).reshape_as(x)

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H * W, C / heads)."""
        return torch.unflatten(x.flatten(2), 1, (self.heads, -1)).transpose(2, 3)


class BotFamily(MapFamily):
    """Paper, section 3, bottleneck transformer: 4 heads, e in {1/4, 1/2, 1, 2, 3, 4}.

    The inner width is e times the input channels, rounded to a multiple of eight. BoTNet's tables
    of relative positions belong to one resolution; a depthwise convolution before the attention
    tells positions here. Where a map has more than 1024 positions, neighbours share a key and a
    value. A stride is a mean behind the attention, as in BoTNet.
    """

    name = "bot"
    equation = "y = [x +] BN PW( ReLU BN MHSA( z + DW_3(z) ) ), z = ReLU BN PW_e(x)"
    grid = (("e", EXPANSIONS),)
    option_values = (("e", WIDTH),)

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        inner = aligned(view.input_spec.channels * op.number("e"))
        return [
            *narrowed(view, inner),
            PositionConv(inner),
            MapAttention(inner, HEADS, key_pooling(*view.input_spec.spatial)),
            *widened(view, inner),
        ]

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        inner = aligned(before * op.number("e"))
        height, width = view.input_spec.spatial
        side = key_pooling(height, width)
        keys, positions = -(-height // side) * -(-width // side), height * width
        rows, columns = view.output_spec.spatial
        return total(
            conv_counts(positions, before, inner),
            norm_counts(inner),
            conv_counts(positions, inner, inner, 3, groups=inner, bias=True),
            conv_counts(positions, inner, inner),
            conv_counts(keys, inner, 2 * inner),
            attention_counts(positions, keys, inner),
            norm_counts(inner),
            conv_counts(rows * columns, inner, after),
            norm_counts(after),
        )


FAMILY = BotFamily()
