"""Small networks as they are inspected, without any measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import lanac
from lanac.ir import LeftOut, Slot

Inspect = Callable[..., "lanac.Inspection"]


class Forked(nn.Module):
    """A long skip around two layers, and two operations without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Upsample(scale_factor=2))
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        early = torch.relu(self.stem(x))
        late = self.up(self.down(early))
        return self.last(torch.cat([early, late], 1)).sigmoid()


@pytest.fixture
def forked() -> lanac.Inspection:
    """Every convolution is a slot, whatever the partition makes of this network."""
    found = lanac.inspect(
        Forked(), example_inputs=torch.randn(2, 3, 8, 8), name="forked <&>", latency=False,
        granularity="layer",
    )  # fmt: skip
    regions = {
        "stem": ("stem", "relu"), "down": ("down",), "up.0": ("up_0",), "last": ("last",),
    }  # fmt: skip
    program = found.program
    slots = []
    for name, nodes in regions.items():
        entry = program.nodes[nodes[0]].all_input_nodes[0].name
        specs = program.specs[entry], program.specs[nodes[-1]]
        slots.append(Slot(name, nodes, entry, *specs))
    left_out = (LeftOut(("up_1", "cat"), "no weights"), LeftOut(("sigmoid",), "no weights"))
    program = program.with_slots(tuple(slots), left_out)
    costs = {
        resource: {
            slot.name: {lanac.ir.TEACHER: float(100 * (place + 1))}
            for place, slot in enumerate(slots)
        }
        for resource in found.costs.costs
    }
    whole = dict.fromkeys(found.costs.costs, 1000.0)
    table = replace(found.costs, costs=costs, teacher=whole, constants=dict.fromkeys(whole, 0.0))
    return replace(found, program=program, costs=table)
