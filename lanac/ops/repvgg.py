"""One convolution that trains as three branches (RepVGG)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_counts
from lanac.ops.folding import Foldable
from lanac.ops.layers import Residual, conv_norm
from lanac.ops.values import KERNEL


class Branches(Foldable):
    """y = BN Conv_k(x) + BN PW(x) [+ BN(x)]; folded, one convolution with bias.

    (B, before, H, W) -> (B, after, H/stride, W/stride).

    Args:
        skip: whether there is a third branch; needs stride 1 and as many channels behind as before.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int, *, skip: bool) -> None:
        super().__init__()
        self.dense = nn.Sequential(*conv_norm(before, after, kernel, stride=stride))
        self.pointwise = nn.Sequential(*conv_norm(before, after, 1, stride=stride))
        self.identity: nn.BatchNorm2d | None = nn.BatchNorm2d(before) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x) + self.pointwise(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return y

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """The sum of the branches' kernels (RepVGG, section 3.3), added up in double precision."""
        dense, pointwise = self.dense[0], self.pointwise[0]
        assert isinstance(dense, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
        kernel = dense.kernel_size[0]
        centred = [
            (dense.weight, self.dense[1]),
            (F.pad(pointwise.weight, [kernel // 2] * 4), self.pointwise[1]),
        ]
        if self.identity is not None:
            unit = nn.init.dirac_(torch.empty_like(dense.weight))
            centred.append((unit, self.identity))
        parts = [_without_norm(weight, norm) for weight, norm in centred]
        stride = dense.stride[0]
        result = nn.Conv2d(dense.in_channels, dense.out_channels, kernel, stride, kernel // 2)
        result = result.to(dense.weight)
        assert result.bias is not None
        result.weight.copy_(torch.stack([weight for weight, _ in parts]).sum(0))
        result.bias.copy_(torch.stack([bias for _, bias in parts]).sum(0))
        return result.eval()


def _without_norm(weight: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias, in double precision, of a convolution with its batch norm folded into it."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    return fuse_conv_bn_weights(
        weight.double(),
        None,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        norm.weight.double(),
        norm.bias.double(),
    )


class RepVggFamily:
    """Paper, section 3, "RepVGG block", k=3: what it costs is one convolution.

    The identity branch is there where the slot keeps its shape. RepVGG's ReLU stands where the
    teacher's op ends in one.
    """

    name = "repvgg"
    equation = "y = BN Conv_k(x) + BN PW(x) [+ BN(x)], folded to y = Conv_k(x)"
    option_values = (("k", KERNEL),)

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [] if view.stride is None else [OpSpec.of(self.name, k=3)]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        before, after = view.input_spec.channels, view.output_spec.channels
        branches = Branches(
            before, after, int(op.number("k")), view.stride or 1, skip=view.slot.keeps_shape
        )
        return Residual(nn.Sequential(branches), skip=False, relu=view.ends_in_relu)

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        """Of the folded op: one convolution with bias."""
        before, after = view.input_spec.channels, view.output_spec.channels
        positions = math.prod(view.output_spec.spatial)
        return conv_counts(positions, before, after, int(op.number("k")), bias=True)


FAMILY = RepVggFamily()
