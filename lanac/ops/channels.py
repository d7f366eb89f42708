"""Channel groups inside a slot: which channels can be removed together, and by whom they are used."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from lanac.ir import TensorSpec
from lanac.ops.channel_walk import ChannelWalk
from lanac.ops.unions import FIXED


@dataclass
class ChannelGroup:
    """Units of channels that stand in the same tensors: any number of them can be removed.

    Attributes:
        units: one number per unit, (size,), ascending.
        width: channels of one unit in the layers that read it: 1, or those of a head of attention
            or of a group of a grouped convolution.
        producers: paths of dense layers whose outputs these channels are.
        followers: paths of layers that work channel by channel, or group by group, with weights.
        consumers: path of a dense layer that reads these channels, and the node that feeds it.
    """

    units: Tensor
    width: int
    producers: list[str] = field(default_factory=list)
    followers: list[str] = field(default_factory=list)
    consumers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.units)

    def kept(self, share: float) -> int:
        """How many units stay where a share of them is wanted.

        Their channels are a multiple of eight, which runtimes compute without padding.
        """
        step = 8 // math.gcd(8, self.width)
        return min(self.size, max(step, round(self.size * share / step) * step))


@dataclass(frozen=True)
class Channels:
    """All channels of a slot's op.

    Attributes:
        walk: the numbers of all channels.
        groups: what can be removed, in graph order.
    """

    walk: ChannelWalk
    groups: tuple[ChannelGroup, ...]

    @classmethod
    def of(cls, module: fx.GraphModule, specs: Mapping[str, TensorSpec]) -> Channels:
        """Follows the channels of a module with one input and one output.

        Args:
            module: a slot's own op.
            specs: spec of every tensor by node name.
        """
        walk = ChannelWalk(module, specs)
        return cls(walk, tuple(_groups(walk)))


def _groups(walk: ChannelWalk) -> list[ChannelGroup]:
    """Units that stand in the same tensors are one group; it needs a producer and a reader."""
    places: dict[int, list[str]] = defaultdict(list)
    for name in walk.values:
        roots = walk.roots(name)
        if roots is not None:
            for root in sorted(set(roots.flatten().tolist())):
                places[root].append(name)
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for root, names in sorted(places.items()):
        if root != FIXED:
            members[tuple(names)].append(root)
    groups = [_group(walk, torch.tensor(roots)) for roots in members.values()]
    return [group for group in groups if group.producers and group.consumers]


def _group(walk: ChannelWalk, units: Tensor) -> ChannelGroup:
    group, widths = ChannelGroup(units, 1), []
    for path, layer in walk.layers.items():
        read, given = (
            int(torch.isin(walk.unions.roots(numbers), units).sum())
            for numbers in (layer.inputs, layer.outputs)
        )
        if read and not layer.dense:
            group.followers.append(path)
        elif read:
            group.consumers.append((path, layer.source))
            widths.append(read // len(units))
        if given and layer.dense:
            group.producers.append(path)
    group.width = min(widths, default=1)
    return group
