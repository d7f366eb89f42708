"""The teacher's own op with smaller depthwise kernels."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from torch import fx, nn

from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.least_squares import refit
from lanac.ops.linear_maps import linear_maps, replace_layer
from lanac.ops.values import KERNEL

SIZES = (5, 3)


class KernelFamily:
    """Inherits: the inner taps, then fitted to what the whole kernel gave."""

    name = "kernel"
    equation = "y = t(x) with depthwise kernels of at most k x k"
    option_values = (("k", KERNEL),)

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [OpSpec.of(self.name, k=size) for size in SIZES if any(_larger(view.teacher, size))]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        module, size = copy.deepcopy(view.teacher), int(op.number("k"))
        changed = []
        for node, layer in list(_larger(module, size)):
            replace_layer(module, str(node.target), cropped(layer, size))
            changed.append(node.name)
        if view.reference is not None:
            refit(module, view.reference, changed)
        return module


def _larger(module: fx.GraphModule, size: int) -> Iterator[tuple[fx.Node, nn.Conv2d]]:
    """Depthwise convolutions whose kernel can be cut to that size around its centre."""
    for node, layer in linear_maps(module):
        if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
            cuts = _cuts(layer, size)
            odd = all(kernel % 2 for kernel in layer.kernel_size)
            if odd and any(cuts) and _padding(layer, cuts) is not None:
                yield node, layer


def _cuts(layer: nn.Conv2d, size: int) -> tuple[int, int]:
    """How many taps go on each side, vertically and horizontally."""
    high, wide = (max(0, (kernel - size) // 2) for kernel in layer.kernel_size)
    return high, wide


def _padding(layer: nn.Conv2d, cuts: tuple[int, int]) -> str | tuple[int, int] | None:
    """The padding with which the inner taps read what they read before; None where there is none."""
    if isinstance(layer.padding, str):
        return layer.padding if layer.padding == "same" else None
    if type(layer).__name__ == "Conv2dSame":
        return layer.padding[0], layer.padding[1]
    high, wide = (
        padding - cut * dilation
        for padding, cut, dilation in zip(layer.padding, cuts, layer.dilation, strict=True)
    )
    return (high, wide) if min(high, wide) >= 0 else None


def cropped(layer: nn.Conv2d, size: int) -> nn.Conv2d:
    """A copy of the layer with the inner taps of its kernel alone."""
    cuts = _cuts(layer, size)
    padding = _padding(layer, cuts)
    assert padding is not None  # `_larger` has looked
    small = copy.deepcopy(layer)
    high, wide = layer.kernel_size
    inner = layer.weight.detach()[:, :, cuts[0] : high - cuts[0], cuts[1] : wide - cuts[1]].clone()
    small.weight = nn.Parameter(inner, requires_grad=layer.weight.requires_grad)
    small.kernel_size = (high - 2 * cuts[0], wide - 2 * cuts[1])
    small.padding = padding
    return small


FAMILY = KernelFamily()
