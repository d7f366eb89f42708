"""One dense convolution with a residual."""

from __future__ import annotations

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts
from lanac.ops.grid import MapFamily
from lanac.ops.layers import conv_norm
from lanac.ops.values import KERNEL


class CbResFamily(MapFamily):
    """Paper, section 3, `cb_res` (a CB pair): k in {1, 3, 5, 7}; it has no inner width."""

    name = "cb_res"
    equation = "y = [x +] BN Conv_k(x)"
    grid = (("k", (1, 3, 5, 7)),)
    option_values = (("k", KERNEL),)

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        before, after = view.input_spec.channels, view.output_spec.channels
        return conv_norm(before, after, int(op.number("k")), stride=view.stride or 1)

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        return conv_norm_counts(before, after, int(op.number("k")), view.output_spec)


FAMILY = CbResFamily()
