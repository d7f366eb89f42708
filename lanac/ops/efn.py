"""Inverted residuals with depthwise convolution (MobileNetV2, EfficientNet)."""

from __future__ import annotations

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import SqueezeExcite, conv_norm, share
from lanac.ops.values import COUNT, KERNEL, RATIO


class EfnFamily(MapFamily):
    """Paper, section 3, `efn`: e in {1, 3, 6}, k in {1, 3, 5}, se in {0 (none), 0.04, 0.025}.

    The ratio se refers to the expanded width: 0.04 of six times the input is EfficientNet's 0.25 of
    the input.
    """

    name = "efn"
    equation = "y = [x +] BN PW( SE( act BN DW_k( act BN PW_e(x) ) ) )"
    grid = (("e", (1, 3, 6)), ("k", (1, 3, 5)), ("se", (0, 0.04, 0.025)))
    option_values = (("e", COUNT), ("k", KERNEL), ("se", RATIO))

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        before, after = view.input_spec.channels, view.output_spec.channels
        expansion, kernel, ratio = int(op.number("e")), int(op.number("k")), op.number("se")
        inner = before * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*conv_norm(before, inner, 1), nn.SiLU()]
        stride = view.stride or 1
        layers += [*conv_norm(inner, inner, kernel, stride=stride, groups=inner), nn.SiLU()]
        if ratio > 0:
            layers.append(SqueezeExcite(inner, share(inner, ratio)))
        layers += conv_norm(inner, after, 1)
        return layers

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        expansion, kernel, ratio = int(op.number("e")), int(op.number("k")), op.number("se")
        inner, outputs = before * expansion, view.output_spec
        layers = [
            conv_norm_counts(inner, inner, kernel, outputs, groups=inner),
            conv_norm_counts(inner, after, 1, outputs),
        ]
        if expansion > 1:
            layers.append(conv_norm_counts(before, inner, 1, view.input_spec))
        if ratio > 0:
            layers.append(SqueezeExcite.counts(inner, share(inner, ratio)))
        return total(*layers)


FAMILY = EfnFamily()
