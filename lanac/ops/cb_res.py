"""One dense convolution with a residual."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts
from lanac.ops.layers import Residual, conv_norm


class CbResFamily:
    """Paper, section 3, `cb_res` (a CB pair): k in {1, 3, 5, 7}; it has no inner width."""

    name = "cb_res"
    equation = "y = [x +] BN Conv_k(x)"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        if view.stride is None:
            return []
        return [OpSpec.of(self.name, k=k) for k in (1, 3, 5, 7)]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        before, after = view.input_spec.channels, view.output_spec.channels
        layers = conv_norm(before, after, int(op.number("k")), stride=view.stride or 1)
        return Residual(nn.Sequential(*layers), skip=view.slot.keeps_shape, relu=view.ends_in_relu)

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        return conv_norm_counts(before, after, int(op.number("k")), view.output_spec)


FAMILY = CbResFamily()
