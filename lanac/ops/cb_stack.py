"""Two dense convolutions in a row, as in ResNet's basic block."""

from __future__ import annotations

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import WIDTHS, conv_norm, share
from lanac.ops.values import KERNEL, WIDTH


class CbStackFamily(MapFamily):
    """Paper, section 3, `cb_stack` (CBR CB): k in {1, 3, 5, 7}, w in {1/16 ... 4}.

    The width w refers to the input channels; the first convolution has the stride.
    """

    name = "cb_stack"
    equation = "y = [x +] BN Conv_k( ReLU BN Conv_k,w(x) )"
    grid = (("k", (1, 3, 5, 7)), ("w", WIDTHS))
    option_values = (("k", KERNEL), ("w", WIDTH))

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, inner = int(op.number("k")), share(before, op.number("w"))
        return [
            *conv_norm(before, inner, kernel, stride=view.stride or 1),
            nn.ReLU(),
            *conv_norm(inner, after, kernel),
        ]

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, inner = int(op.number("k")), share(before, op.number("w"))
        return total(
            conv_norm_counts(before, inner, kernel, view.output_spec),
            conv_norm_counts(inner, after, kernel, view.output_spec),
        )


FAMILY = CbStackFamily()
