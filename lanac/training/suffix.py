"""Running the rest of a network from a slot on, so that what lies before it runs only once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.ir import Program, Slot, run_node
from lanac.training.data import Batch
from lanac.training.device import on_device

Continue = Callable[[nn.Module], Any]
"""Fills the slot with a module and returns the network's outputs."""


class SuffixRunner:
    """Steps through the teacher slot by slot; at each one the rest can be run with another op.

    Only the values that are still needed are kept, so the memory is that of one forward pass.
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        self.module: fx.GraphModule = on_device(program.split(), device).eval()
        self._slots = {slot.attribute: slot for slot in program.slots}
        self._nodes = list(self.module.graph.nodes)
        self._last_use = _last_uses(self._nodes)

    @torch.no_grad()
    def steps(self, batch: Batch) -> Iterator[tuple[Slot, Continue]]:
        """For every slot in order: the slot, and a function that runs the network from there."""
        values: dict[fx.Node, Any] = {}
        inputs = iter(batch.inputs)
        for place, node in enumerate(self._nodes):
            slot = self._slots.get(str(node.target)) if node.op == "call_module" else None
            if slot is not None:
                yield slot, self._continuation(place, dict(values))
            values[node] = self._evaluate(node, values, inputs)
            for dead in self._last_use.get(place, ()):
                del values[dead]

    def _continuation(self, place: int, values: dict[fx.Node, Any]) -> Continue:
        @torch.no_grad()
        def run(op: nn.Module) -> Any:
            # Copied with what they share: an op in place must not spoil the next one's values.
            mine = dict(zip(values, copy.deepcopy(list(values.values())), strict=True))
            entry: Tensor = mine[self._nodes[place].args[0]]
            mine[self._nodes[place]] = op(entry)
            for node in self._nodes[place + 1 :]:
                mine[node] = self._evaluate(node, mine, iter(()))
            return mine[self._nodes[-1]]

        return run

    def _evaluate(self, node: fx.Node, values: dict[fx.Node, Any], inputs: Iterator[Tensor]) -> Any:
        if node.op == "placeholder":
            return next(inputs)
        arguments = _with_values(node.args, values)
        if node.op == "output":
            return arguments[0]
        return run_node(self.module, node, arguments, _with_values(node.kwargs, values))


def _with_values(argument: Any, values: Mapping[fx.Node, Any]) -> Any:
    """An argument with values in the place of nodes.

    Its lists and dicts are Python's own: torch.fx's cannot be changed, and a user's loss may.
    """
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, dict):
        return {key: _with_values(item, values) for key, item in argument.items()}
    if isinstance(argument, list):
        return [_with_values(item, values) for item in argument]
    if isinstance(argument, tuple):
        items = [_with_values(item, values) for item in argument]
        return type(argument)(*items) if hasattr(argument, "_fields") else tuple(items)
    if isinstance(argument, slice):
        parts = (argument.start, argument.stop, argument.step)
        return slice(*(_with_values(part, values) for part in parts))
    return argument


def _last_uses(nodes: list[fx.Node]) -> dict[int, list[fx.Node]]:
    """By place: the values that nothing after it reads."""
    place = {node: index for index, node in enumerate(nodes)}
    last: dict[int, list[fx.Node]] = {}
    for node in nodes[:-1]:
        final = max((place[user] for user in node.users), default=place[node])
        last.setdefault(final, []).append(node)
    return last
