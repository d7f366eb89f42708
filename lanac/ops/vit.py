"""Vision transformer layers (Dosovitskiy et al. 2021), on feature maps and on tokens."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor, nn

from lanac.ir import OpSpec
from lanac.ir.graphs import read_attribute
from lanac.ops.attention import PositionConv, SelfAttention, patch_size
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import attention_counts, conv_counts, norm_counts, total
from lanac.ops.layers import Residual, aligned
from lanac.ops.values import COUNT

MLP_RATIO = 4
MAX_TOKENS = 2048
"""Where tokens cannot be joined to patches, more than these get no op: scores grow as their square
(256 MB a sample at 16 heads)."""


class Mlp(nn.Module):
    """Two linear layers with GELU between: (..., C) -> (..., C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.project = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.act(self.expand(x)))
        return y


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and with a residual: (B, N, C) -> the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.attention = SelfAttention(channels, heads)
        self.mlp_norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, MLP_RATIO * channels)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(self.attention_norm(x)) + x
        changed: Tensor = self.mlp(self.mlp_norm(attended))
        return changed + attended


class MapTransformer(nn.Module):
    """Transformer on the patches of a feature map: (B, C, H, W) -> (B, C', H/stride, W/stride).

    A patch is `patch` x `patch` positions of the output, and the part of the input under them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        heads: int,
        depth: int,
        *,
        patch: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        side = patch * stride
        # Zeros for the last patch of a size that does not divide; what is not needed is not read.
        fill = [nn.ZeroPad2d((0, side - 1, 0, side - 1))] if side > 1 else []
        self.embed = nn.Sequential(*fill, nn.Conv2d(in_channels, width, side, side))
        self.position = PositionConv(width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        unfold = [nn.PixelShuffle(patch)] if patch > 1 else []
        self.project = nn.Sequential(nn.Conv2d(width, out_channels * patch**2, 1), *unfold)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.position(self.embed(x))
        tokens = self.norm(self.blocks(grid.flatten(2).transpose(1, 2)))
        y: Tensor = self.project(tokens.transpose(1, 2).reshape_as(grid))
        if self.patch == 1:
            return y
        # Patches may reach beyond the border of the map.
        return y[:, :, : self._strided(x.shape[2]), : self._strided(x.shape[3])]

    def _strided(self, size: int) -> int:
        return size if self.stride == 1 else (size + (self.stride - 1)) // self.stride


class TokenTransformer(nn.Sequential):
    """Transformer on tokens: (B, N, C) -> (B, N, C'), any N, class tokens among them."""

    def __init__(
        self, in_channels: int, out_channels: int, width: int, heads: int, depth: int
    ) -> None:
        super().__init__(
            nn.Linear(in_channels, width),
            *(TransformerBlock(width, heads) for _ in range(depth)),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, out_channels),
        )


class Permute(nn.Module):
    """The dimensions in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class AddTable(nn.Module):
    """Tokens (B, N, C) plus a trained table (1, N, C) or (N, C)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class VitFamily:
    """Paper, section 3, `vit`: d in {1, 2} layers, w in {32 ... 1024} wide, h in {4, 8, 16} heads.

    The layers are those of ViT (norm first, MLP four times as wide, norm behind the last). Around
    them a projection leads from the slot's channels to w and back. On feature maps it takes patches
    where there would be more than 1024 tokens, and a depthwise convolution instead of a table tells
    positions, so that any resolution fits. On tokens there is no position encoding: what enters a
    slot carries it. Where the teacher's op adds it first, as ViT's first layer does, the op starts with
    a copy of that table. Maps with channels last, as in Swin, are turned.
    """

    name = "vit"
    equation = "y = [x +] Linear( LN( T^d( PATCH_w(x) + DW_3(PATCH_w(x)) ) ) ), T: attention, MLP"
    option_values = (("d", COUNT), ("w", COUNT), ("h", COUNT))

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        fits = view.stride is not None if view.kind == "map" else view.kind is not None
        if not fits or (view.kind == "tokens" and view.input_spec.shape[1] > MAX_TOKENS):
            return []
        widths = (32, 64, 128, 256, 512, 1024)
        grid = [(d, w, h) for d, w, h in product((1, 2), widths, (4, 8, 16)) if w % h == 0]
        return [OpSpec.of(self.name, d=d, w=w, h=h) for d, w, h in grid]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        depth, width, heads = _options(op)
        before, after = _channels(view)
        layers: list[nn.Module]
        if view.kind == "tokens":
            layers = [TokenTransformer(before, after, width, heads, depth)]
        else:
            patch, stride = patch_size(*_positions(view)), view.stride or 1
            layers = [
                MapTransformer(before, after, width, heads, depth, patch=patch, stride=stride)
            ]
        if view.kind == "grid":
            layers = [Permute(0, 3, 1, 2), *layers, Permute(0, 2, 3, 1)]
        op_itself = Residual(
            nn.Sequential(*layers), skip=view.slot.keeps_shape, relu=view.ends_in_relu
        )
        table = _position_table(view)
        return op_itself if table is None else nn.Sequential(AddTable(table), op_itself)

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        depth, width, _ = _options(op)
        before, after = _channels(view)
        if view.kind == "tokens":
            tokens = view.input_spec.shape[1]
            around = [
                conv_counts(tokens, before, width, bias=True),
                conv_counts(tokens, width, after, bias=True),
            ]
        else:
            rows, columns = _positions(view)
            patch = patch_size(rows, columns)
            tokens = -(-rows // patch) * -(-columns // patch)
            side = patch * (view.stride or 1)
            around = [
                conv_counts(tokens, before, width, side, bias=True),
                conv_counts(tokens, width, width, 3, groups=width, bias=True),
                conv_counts(tokens, width, after * patch**2, bias=True),
            ]
        block, table = _block_counts(tokens, width), _position_table(view)
        added = Counts(0 if table is None else table.numel(), 0)
        return total(*around, *[block] * depth, norm_counts(width), added)


def _block_counts(tokens: int, width: int) -> Counts:
    return total(
        norm_counts(width),
        conv_counts(tokens, width, 3 * width, bias=True),
        attention_counts(tokens, tokens, width),
        conv_counts(tokens, width, width, bias=True),
        norm_counts(width),
        conv_counts(tokens, width, MLP_RATIO * width, bias=True),
        conv_counts(tokens, MLP_RATIO * width, width, bias=True),
    )


def _options(op: OpSpec) -> tuple[int, int, int]:
    """Depth, width and heads; the width is rounded to a multiple of the heads."""
    heads = int(op.number("h"))
    return int(op.number("d")), aligned(op.number("w"), heads), heads


def _channels(view: SlotView) -> tuple[int, int]:
    place = 1 if view.kind == "map" else -1
    return view.input_spec.shape[place], view.output_spec.shape[place]


def _position_table(view: SlotView) -> Tensor | None:
    """What the teacher's op adds to the tokens that enter it: a parameter with a row for each."""
    if view.kind != "tokens":
        return None
    entry = next(iter(view.teacher.graph.nodes))
    for node in entry.users:
        if node.target not in (operator.add, operator.iadd, torch.add, "add", "add_"):
            continue
        for other in node.all_input_nodes:
            if other.op == "get_attr":
                table: Tensor = read_attribute(view.teacher, str(other.target))
                if table.shape[-2:] == view.input_spec.sample_shape:
                    return table
    return None


def _positions(view: SlotView) -> tuple[int, int]:
    """Height and width of the output map."""
    start = 2 if view.kind == "map" else 1
    height, width = view.output_spec.shape[start : start + 2]
    return height, width


FAMILY = VitFamily()
