"""What a slot's own linear maps read and give on the calibration samples: what ops are fitted to."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lanac.ops.linear_maps import LinearMap, groups_of, linear_maps, output_rows, run_graph

ROWS = (4096, 16384)
"""Rows that a linear map is fitted on: four per unknown, within these bounds."""
GROUPED_ROWS = (1024, 4096)
"""Likewise for a map of groups, which has few unknowns in each, but rows for every one of them."""


@dataclass(frozen=True)
class MapReference:
    """One linear map of the slot's own op.

    Attributes:
        shape: of its output without the channels, batch first.
        places: which places of the output are looked at, indices into `shape`, ascending.
        outputs: the outputs there, (rows, outputs).
        energy: mean square of every channel that it reads, (inputs,).
    """

    shape: tuple[int, ...]
    places: Tensor
    outputs: Tensor
    energy: Tensor


@dataclass(frozen=True)
class Reference:
    """The linear maps of a slot's own op on its calibration samples.

    Attributes:
        inputs: what enters the slot, (B, ...).
        maps: by name of the node in the slot's graph.
        means: mean of each tensor of one value per sample and channel, (1, channels, 1, 1), by name
            of the node.
    """

    inputs: Tensor
    maps: Mapping[str, MapReference]
    means: Mapping[str, Tensor]

    @classmethod
    def of(cls, module: fx.GraphModule, inputs: Tensor) -> Reference:
        """Runs the slot's own op once.

        Args:
            module: the slot's own op, in eval mode.
            inputs: what enters it for the calibration samples, (B, ...).
        """
        found: dict[str, MapReference] = {}
        means: dict[str, Tensor] = {}
        layers = dict(linear_maps(module))

        def look(node: fx.Node, values: Mapping[fx.Node, Any]) -> None:
            value = values[node]
            if isinstance(value, Tensor) and value.dim() == 4 and value.shape[2:] == (1, 1):
                means[node.name] = value.mean(0, keepdim=True)
            if node in layers:
                source = values[node.all_input_nodes[0]]
                found[node.name] = _look(node.name, layers[node], source, value)

        run_graph(module, inputs, lambda node, values: None, look)
        return cls(inputs, found, means)


def _look(name: str, layer: LinearMap, x: Tensor, y: Tensor) -> MapReference:
    channel = 1 if isinstance(layer, torch.nn.Conv2d) else -1
    shape = tuple(y.movedim(channel, -1).shape[:-1])
    count = torch.Size(shape).numel()
    unknowns = layer.weight[0].numel()
    least, most = ROWS if groups_of(layer) == 1 else GROUPED_ROWS
    rows = min(count, max(least, min(4 * unknowns, most)))
    # Drawn for the place in the graph alone: every op of the slot is fitted on the same rows.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    places = torch.randperm(count, generator=generator)[:rows].sort().values
    others = [dim for dim in range(x.dim()) if dim != channel % x.dim()]
    energy = x.float().square().mean(others)
    return MapReference(shape, places, output_rows(layer, y, places), energy)
