"""Fused inverted residuals: one dense convolution expands (EfficientNetV2)."""

from __future__ import annotations

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import SqueezeExcite, conv_norm, share
from lanac.ops.values import COUNT, KERNEL, RATIO


class Efnv2Family(MapFamily):
    """Paper, section 3, `efnv2`: e in {1, 3, 6}, k in {1, 3, 5}, se in {0 (none), 0.04, 0.025}.

    Without expansion too, the convolution is followed by its projection. EfficientNetV2 itself has a
    single convolution there, which ends in an activation: it could not give a slot the negative
    values of a linear bottleneck, and squeeze-excite would have no place. One convolution alone is
    in the pool as `cb_res`.
    """

    name = "efnv2"
    equation = "y = [x +] BN PW( SE( act BN Conv_k,e(x) ) )"
    grid = (("e", (1, 3, 6)), ("k", (1, 3, 5)), ("se", (0, 0.04, 0.025)))
    option_values = (("e", COUNT), ("k", KERNEL), ("se", RATIO))

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, ratio = int(op.number("k")), op.number("se")
        inner = before * int(op.number("e"))
        layers = [*conv_norm(before, inner, kernel, stride=view.stride or 1), nn.SiLU()]
        if ratio > 0:
            layers.append(SqueezeExcite(inner, share(inner, ratio)))
        layers += conv_norm(inner, after, 1)
        return layers

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, ratio, outputs = int(op.number("k")), op.number("se"), view.output_spec
        inner = before * int(op.number("e"))
        layers = [
            conv_norm_counts(before, inner, kernel, outputs),
            conv_norm_counts(inner, after, 1, outputs),
        ]
        if ratio > 0:
            layers.append(SqueezeExcite.counts(inner, share(inner, ratio)))
        return total(*layers)


FAMILY = Efnv2Family()
