"""The teacher's own op with its inner channels narrowed, its trained weights kept."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from lanac.errors import PoolError
from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.channels import ChannelGroup, find_channel_groups
from lanac.ops.layers import aligned

WIDTHS = (0.75, 0.5, 0.375, 0.25, 0.125)


class SlimFamily:
    """Inherits: the kept channels keep their trained weights, so little training is needed."""

    name = "slim"
    equation = "y = t(x) with only the w most important channels between its layers"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        groups = find_channel_groups(view.teacher, view.inner_specs)
        ops: dict[tuple[int, ...], OpSpec] = {}
        for width in WIDTHS:
            kept = tuple(kept_channels(group, width) for group in groups)
            if any(count < group.size for count, group in zip(kept, groups, strict=True)):
                ops.setdefault(kept, OpSpec.of(self.name, w=width))
        return list(ops.values())

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        module = copy.deepcopy(view.teacher)
        activations = _Activations(view.teacher)
        if view.calibration is not None:
            activations.record(view.calibration)
        for group in find_channel_groups(module, view.inner_specs):
            count = kept_channels(group, op.number("w"))
            if count < group.size:
                importance = channel_importance(module, group, activations.energy)
                keep = importance.topk(count).indices.sort().values
                narrow_group(module, group, keep)
        module.recompile()
        return module


def kept_channels(group: ChannelGroup, width: float) -> int:
    """How many channels `slim(w)` keeps: a multiple of eight, never more than there are."""
    return min(group.size, aligned(group.size * width))


class _Activations(fx.Interpreter):
    """Mean square of every channel of every tensor over the calibration samples."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.energy: dict[str, Tensor] = {}

    @torch.no_grad()
    def record(self, inputs: Tensor) -> None:
        self.run(inputs)

    def run_node(self, n: fx.Node) -> object:
        value: object = super().run_node(n)
        if isinstance(value, Tensor) and value.dim() > 1 and value.is_floating_point():
            others = [dim for dim in range(value.dim()) if dim != 1]
            self.energy[n.name] = value.float().square().mean(others)
        return value


def channel_importance(module: nn.Module, group: ChannelGroup, energy: dict[str, Tensor]) -> Tensor:
    """What each channel contributes to the layers that read it, (channels,).

    The mean square of the channel times the squared norm of the weights that read it: the energy
    that the next layer's output would lose. Without calibration the producers' weights stand in.
    """
    total = torch.zeros(group.size)
    for path, source in group.consumers:
        weight = _dense_weight(module, path).detach().float()
        reading = weight.square().sum([d for d in range(weight.dim()) if d != 1]).cpu()
        total += reading * energy[source].cpu() if source in energy else reading
    if not energy:
        for path in group.producers:
            total *= _dense_weight(module, path).detach().float().flatten(1).norm(dim=1).cpu()
    return total


def _dense_weight(module: nn.Module, path: str) -> Tensor:
    weight = module.get_submodule(path).weight
    if not isinstance(weight, Tensor):
        raise PoolError(f"{path} has no weight")
    return weight


def narrow_group(module: nn.Module, group: ChannelGroup, keep: Tensor) -> None:
    """Replaces every layer that touches the group by one that has only the kept channels."""
    for path in group.producers:
        _replace(module, path, _narrow_dense(module.get_submodule(path), keep, dimension=0))
    for path, _ in group.consumers:
        _replace(module, path, _narrow_dense(module.get_submodule(path), keep, dimension=1))
    for path in group.followers:
        _replace(module, path, _narrow_follower(module.get_submodule(path), keep))


def _replace(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)


def _narrow_dense(layer: nn.Module, keep: Tensor, dimension: int) -> nn.Module:
    """A Conv2d or Linear with only the kept outputs (dimension 0) or inputs (dimension 1)."""
    narrowed = copy.deepcopy(layer)
    if not isinstance(narrowed, (nn.Conv2d, nn.Linear)):
        raise PoolError(f"slim cannot narrow {type(layer).__name__}")
    _keep(narrowed, "weight", keep, dimension)
    if dimension == 0 and narrowed.bias is not None:
        _keep(narrowed, "bias", keep, 0)
    attribute = ("out" if dimension == 0 else "in") + (
        "_channels" if isinstance(narrowed, nn.Conv2d) else "_features"
    )
    setattr(narrowed, attribute, len(keep))
    return narrowed


def _narrow_follower(layer: nn.Module, keep: Tensor) -> nn.Module:
    """A BatchNorm2d or depthwise Conv2d with only the kept channels."""
    narrowed = copy.deepcopy(layer)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(narrowed, name, None) is not None:
            _keep(narrowed, name, keep, 0)
    if isinstance(narrowed, nn.Conv2d):
        narrowed.in_channels = narrowed.out_channels = narrowed.groups = len(keep)
    elif isinstance(narrowed, nn.BatchNorm2d):
        narrowed.num_features = len(keep)
    return narrowed


def _keep(layer: nn.Module, name: str, keep: Tensor, dimension: int) -> None:
    value = getattr(layer, name)
    kept = value.detach().index_select(dimension, keep.to(value.device)).clone()
    if isinstance(value, nn.Parameter):
        kept = nn.Parameter(kept, requires_grad=value.requires_grad)
    setattr(layer, name, kept)


FAMILY = SlimFamily()
