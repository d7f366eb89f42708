"""Inverted residuals with depthwise convolution (MobileNetV2, EfficientNet)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from torch import Tensor, nn

from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.layers import Residual, conv_norm


class SqueezeExcite(nn.Module):
    """Channel gate: (B, C, H, W) -> the same, each channel times a number between 0 and 1."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(pooled))))
        return x * gate


class EfnFamily:
    """Paper, section 3, `efn`: e in {1, 3, 6}, k in {1, 3, 5}, se in {0 (none), 0.04, 0.025}."""

    name = "efn"
    equation = "y = [x +] BN PW( SE( act BN DW_k( act BN PW_e(x) ) ) )"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        if view.stride is None:
            return []
        grid = product((1, 3, 6), (1, 3, 5), (0, 0.04, 0.025))
        return [OpSpec.of(self.name, e=e, k=k, se=se) for e, k, se in grid]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        before, after = view.input_spec.channels, view.output_spec.channels
        expansion, kernel, ratio = int(op.number("e")), int(op.number("k")), op.number("se")
        inner = before * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*conv_norm(before, inner, 1), nn.SiLU()]
        stride = view.stride or 1
        layers += [*conv_norm(inner, inner, kernel, stride=stride, groups=inner), nn.SiLU()]
        if ratio > 0:
            # The ratio refers to the expanded width, as in the paper's grid of small ratios.
            layers.append(SqueezeExcite(inner, max(1, round(inner * ratio))))
        layers += conv_norm(inner, after, 1)
        return Residual(nn.Sequential(*layers), skip=view.slot.keeps_shape, relu=view.ends_in_relu)


FAMILY = EfnFamily()
