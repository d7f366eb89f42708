"""Bottlenecks with a lambda layer in the place of the convolution (Bello 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lanac.ir import OpSpec
from lanac.ops.attention import EXPANSIONS, narrowed, widened
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_counts, norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import aligned
from lanac.ops.values import WIDTH

HEADS = 4
KEY_DEPTH = 16
WINDOW = 9
"""Side of the square around a position that its position lambda sees."""


class LambdaLayer(nn.Module):
    """Attention without a score per pair: (B, C, H, W) -> the same, any H and W.

    What all positions hold is summed up in one linear map (the content lambda, keys by values),
    and what lies around each position in one map more (its position lambda, by a convolution). Both
    are applied to the position's queries. Intra-depth is one.
    """

    def __init__(self, channels: int, heads: int, key_depth: int, window: int) -> None:
        super().__init__()
        self.heads, self.value_depth = heads, channels // heads
        self.query = nn.Conv2d(channels, heads * key_depth, 1, bias=False)
        self.query_norm = nn.BatchNorm2d(heads * key_depth)
        self.key = nn.Conv2d(channels, key_depth, 1, bias=False)
        self.softmax = nn.Softmax(dim=2)
        self.value = nn.Conv2d(channels, self.value_depth, 1, bias=False)
        self.value_norm = nn.BatchNorm2d(self.value_depth)
        # One kernel for all channels of the values, which stand in the batch.
        self.position = nn.Conv2d(1, key_depth, window, padding=window // 2)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.unflatten(self.query_norm(self.query(x)).flatten(2), 1, (self.heads, -1))
        k = self.softmax(self.key(x).flatten(2))
        v = self.value_norm(self.value(x))
        content = k @ v.flatten(2).transpose(1, 2)
        around = self.position(v.flatten(0, 1).unsqueeze(1)).flatten(2)
        # (B, V, K, N) -> (B, N, K, V): one map per position.
        lambdas = torch.unflatten(around, 0, (-1, self.value_depth)).permute(0, 3, 2, 1)
        y: Tensor = q.permute(0, 3, 1, 2) @ (lambdas + content.unsqueeze(1))
        return y.permute(0, 2, 3, 1).reshape_as(x)


class LambdaFamily(MapFamily):
    """Paper, section 3, lambda bottleneck: e in {1/4, 1/2, 1, 2, 3, 4}.

    The inner width is e times the input channels, rounded to a multiple of eight. Four heads, keys
    16 deep and position lambdas of 9 x 9 positions, as in timm's lambda_resnet26t; nothing in it
    depends on the resolution. A stride is a mean behind the lambda layer. The position lambdas take
    16 / 4 times the memory of the inner map, which grows with the positions, not with their square.
    """

    name = "lambda"
    equation = "y = [x +] BN PW( ReLU BN LAMBDA_9( ReLU BN PW_e(x) ) )"
    grid = (("e", EXPANSIONS),)
    option_values = (("e", WIDTH),)

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        inner = aligned(view.input_spec.channels * op.number("e"))
        return [
            *narrowed(view, inner),
            LambdaLayer(inner, HEADS, KEY_DEPTH, WINDOW),
            *widened(view, inner),
        ]

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        inner = aligned(before * op.number("e"))
        values, queries = inner // HEADS, HEADS * KEY_DEPTH
        height, width = view.input_spec.spatial
        positions = height * width
        rows, columns = view.output_spec.spatial
        window = conv_counts(positions * values, 1, KEY_DEPTH, WINDOW, bias=True)
        return total(
            conv_counts(positions, before, inner),
            norm_counts(inner),
            conv_counts(positions, inner, queries + KEY_DEPTH + values),
            norm_counts(queries + values),
            window,
            Counts(0, 2 * positions * KEY_DEPTH * values),  # the content lambda
            Counts(0, 2 * positions * queries * values),  # the lambdas on the queries
            norm_counts(inner),
            conv_counts(rows * columns, inner, after),
            norm_counts(after),
        )


FAMILY = LambdaFamily()
