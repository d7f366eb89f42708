"""Two dense convolutions in a row, as in ResNet's basic block."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import Counts, SlotView
from lanac.ops.counts import conv_norm_counts, total
from lanac.ops.layers import WIDTHS, Residual, conv_norm, share


class CbStackFamily:
    """Paper, section 3, `cb_stack` (CBR CB): k in {1, 3, 5, 7}, w in {1/16 ... 4}.

    The width w refers to the input channels; the first convolution has the stride.
    """

    name = "cb_stack"
    equation = "y = [x +] BN Conv_k( ReLU BN Conv_k,w(x) )"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        if view.stride is None:
            return []
        return [OpSpec.of(self.name, k=k, w=w) for k, w in product((1, 3, 5, 7), WIDTHS)]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, inner = int(op.number("k")), share(before, op.number("w"))
        layers = [
            *conv_norm(before, inner, kernel, stride=view.stride or 1),
            nn.ReLU(),
            *conv_norm(inner, after, kernel),
        ]
        return Residual(nn.Sequential(*layers), skip=view.slot.keeps_shape, relu=view.ends_in_relu)

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        before, after = view.input_spec.channels, view.output_spec.channels
        kernel, inner = int(op.number("k")), share(before, op.number("w"))
        return total(
            conv_norm_counts(before, inner, kernel, view.output_spec),
            conv_norm_counts(inner, after, kernel, view.output_spec),
        )


FAMILY = CbStackFamily()
