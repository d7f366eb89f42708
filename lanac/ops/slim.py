"""The teacher's own op with its inner channels narrowed, its trained weights kept."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.channels import ChannelGroup, Channels
from lanac.ops.least_squares import refit
from lanac.ops.narrowing import narrow
from lanac.ops.reference import Reference
from lanac.ops.values import SHARE

WIDTHS = (0.75, 0.5, 0.375, 0.25, 0.125)


class SlimFamily:
    """Inherits: what stays keeps its trained weights; what reads it is fitted to the teacher.

    Whole heads of attention and whole groups of grouped convolutions go or stay.
    """

    name = "slim"
    equation = "y = t(x) with only the w most important channels between its layers"
    option_values = (("w", SHARE),)

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        groups = view.channels.groups
        ops: dict[tuple[int, ...], OpSpec] = {}
        for width in WIDTHS:
            kept = tuple(group.kept(width) for group in groups)
            if any(count < group.size for count, group in zip(kept, groups, strict=True)):
                ops.setdefault(kept, OpSpec.of(self.name, w=width))
        return list(ops.values())

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        module, channels = copy.deepcopy(view.teacher), view.channels
        removed = removed_units(module, channels, op.number("w"), view.reference)
        narrow(module, channels.walk, removed)
        if view.reference is not None:
            roots = channels.walk.unions.roots
            layers = [layer for layer in channels.walk.layers.values() if layer.dense]
            changed = {
                layer.node
                for layer in layers
                if bool(torch.isin(roots(layer.inputs), removed).any())
            }
            columns = {layer.node: ~torch.isin(roots(layer.outputs), removed) for layer in layers}
            refit(module, view.reference, changed, columns=columns)
        return module


def removed_units(
    module: nn.Module, channels: Channels, share: float, reference: Reference | None
) -> Tensor:
    """Numbers of the units that go where a share of each group stays: the least important ones."""
    removed = [torch.zeros(0, dtype=torch.int64)]
    for group in channels.groups:
        count = group.kept(share)
        if count < group.size:
            importance = unit_importance(module, group, channels, reference)
            removed.append(group.units[importance.argsort(descending=True, stable=True)[count:]])
    return torch.cat(removed)


def unit_importance(
    module: nn.Module, group: ChannelGroup, channels: Channels, reference: Reference | None
) -> Tensor:
    """What each unit contributes to the layers that read it, (units,).

    The mean square of its channels times the squared norm of the weights that read them: the energy
    that the next layer's output would lose. Without calibration the producers' weights stand in.
    """
    walk = channels.walk
    total = torch.zeros(int(group.units.max()) + 1, dtype=torch.float64)
    for path, _ in group.consumers:
        layer = walk.layers[path]
        weight = module.get_parameter(f"{path}.weight").detach().double()
        reading = weight.square().sum([d for d in range(weight.dim()) if d != 1]).cpu()
        if reference is not None and layer.node in reference.maps:
            reading *= reference.maps[layer.node].energy.double()
        _add(total, walk.unions.roots(layer.inputs), reading)
    if reference is None:
        own = torch.zeros_like(total)
        for path in group.producers:
            weight = module.get_parameter(f"{path}.weight").detach().double().flatten(1)
            _add(own, walk.unions.roots(walk.layers[path].outputs), weight.square().sum(1).cpu())
        total *= own
    return total[group.units]


def _add(total: Tensor, numbers: Tensor, values: Tensor) -> None:
    known = numbers < len(total)
    total.index_add_(0, numbers[known], values[known])


FAMILY = SlimFamily()
