"""Dense bottlenecks."""

from __future__ import annotations

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts, total
from lanac.ops.grid import MapFamily
from lanac.ops.layers import WIDTHS, conv_norm, share
from lanac.ops.values import KERNEL, WIDTH


class CbBottleFamily(MapFamily):
    """Paper, section 3, `cb_bottle` (CBR-CBR-CB): k in {1, 3, 5, 7}, w in {1/16 ... 4}.

    The width w refers to the input channels.
    """

    name = "cb_bottle"
    equation = "y = [x +] BN PW( ReLU BN Conv_k( ReLU BN PW_w(x) ) )"
    grid = (("k", (1, 3, 5, 7)), ("w", WIDTHS))
    option_values = (("k", KERNEL), ("w", WIDTH))

    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, inner = int(op.number("k")), share(before, op.number("w"))
        return [
            *conv_norm(before, inner, 1),
            nn.ReLU(),
            *conv_norm(inner, inner, kernel, stride=view.stride or 1),
            nn.ReLU(),
            *conv_norm(inner, after, 1),
        ]

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, inner = int(op.number("k")), share(before, op.number("w"))
        return total(
            conv_norm_counts(before, inner, 1, view.input_spec),
            conv_norm_counts(inner, inner, kernel, view.output_spec),
            conv_norm_counts(inner, after, 1, view.output_spec),
        )


FAMILY = CbBottleFamily()
