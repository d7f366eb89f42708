"""Pieces that the families with attention share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.ops.base import SlotView
from lanac.ops.layers import conv_norm

EXPANSIONS = (0.25, 0.5, 1, 2, 3, 4)
"""Inner widths of the bottlenecks, in shares of the input channels (paper, section 3)."""

FULL_TOKENS = 1024
"""Up to 32 x 32 positions all attend to all. Beyond, the number of scores is kept near its square:
they would grow with the fourth power of the resolution (112 x 112: 10 GB a sample with 16 heads)."""


class PositionConv(nn.Module):
    """Conditional position encoding (Chu et al. 2021): x + depthwise 3x3 convolution of x.

    Positions are known by their neighbours and by the zeros beyond the border, at any resolution.
    (B, C, H, W) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + x


class SelfAttention(nn.Module):
    """Every token attends to all: (B, N, C) -> (B, N, C), any N (Vaswani et al. 2017)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        y = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v))
        projected: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return projected

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2)


def patch_size(height: int, width: int) -> int:
    """Side of the square patches that make at most `FULL_TOKENS` tokens of a feature map."""
    patch = 1
    while _cells(height, width, patch) > FULL_TOKENS:
        patch += 1
    return patch


def key_pooling(height: int, width: int) -> int:
    """Side of the squares that share a key, so that there are at most `FULL_TOKENS`² scores.

    The limit is never below 49 keys, so that very large maps keep some 7 x 7 of them.
    """
    pooling, keys = 1, max(FULL_TOKENS**2 // (height * width), 49)
    while _cells(height, width, pooling) > keys:
        pooling += 1
    return pooling


def _cells(height: int, width: int, side: int) -> int:
    return -(-height // side) * -(-width // side)


def narrowed(view: SlotView, inner: int) -> list[nn.Module]:
    """The entry of a bottleneck: (B, C, H, W) -> (B, inner, H, W)."""
    return [*conv_norm(view.input_spec.channels, inner, 1), nn.ReLU()]


def widened(view: SlotView, inner: int) -> list[nn.Module]:
    """The exit of a bottleneck, a stride being a mean: (B, inner, H, W) -> the slot's output."""
    stride = view.stride or 1
    return [
        *([nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        *conv_norm(inner, view.output_spec.channels, 1),
    ]
