"""Running the rest of a network from a slot on, so that what lies before it runs only once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from lanac.ir import Program, Slot
from lanac.training.data import Batch
from lanac.training.nodes import NodeRunner, Values

Continue = Callable[[nn.Module], Any]
"""Fills the slot with a module and returns the network's outputs."""


class SuffixRunner:
    """Steps through the teacher slot by slot; at each one the rest can be run with another op.

    Only the values that are still needed are kept, so the memory is that of one forward pass.
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        self._runner = NodeRunner(program, device)
        self.module: fx.GraphModule = self._runner.module

    @torch.no_grad()
    def steps(self, batch: Batch) -> Iterator[tuple[Slot, Continue]]:
        """For every slot in order: the slot, and a function that runs the network from there."""
        runner = self._runner
        values: Values = {}
        inputs = iter(batch.inputs)
        for place, node in enumerate(runner.nodes):
            slot = runner.slot(node)
            if slot is not None:
                yield slot, self._continuation(place, dict(values))
            values[node] = runner.evaluate(node, values, inputs)
            for dead in runner.last_use.get(place, ()):
                del values[dead]

    def _continuation(self, place: int, values: Values) -> Continue:
        nodes = self._runner.nodes

        @torch.no_grad()
        def run(op: nn.Module) -> Any:
            mine = copied(values)
            mine[nodes[place]] = op(self._runner.entered(nodes[place], mine))
            for node in nodes[place + 1 :]:
                mine[node] = self._runner.evaluate(node, mine, iter(()))
            return mine[nodes[-1]]

        return run


def copied(values: Values) -> Values:
    """Values of their own, with what they share: an op in place must not spoil the next one's."""
    return dict(zip(values, copy.deepcopy(list(values.values())), strict=True))
