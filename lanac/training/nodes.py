"""Running a network node by node, with a module of one's choice in each slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lanac.ir import Program, Slot, run_node
from lanac.training.device import on_device

Values = dict[fx.Node, Any]


class NodeRunner:
    """The teacher with a module per slot, node by node.

    Attributes:
        module: the teacher, its slots as sub-modules, in eval mode.
        nodes: of its graph, in order; the last one is the output.
        last_use: by place: the values that nothing after it reads.
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        self.module: fx.GraphModule = on_device(program.split(), device).eval()
        self.nodes: list[fx.Node] = list(self.module.graph.nodes)
        self.last_use = _last_uses(self.nodes)
        self._slots = {slot.attribute: slot for slot in program.slots}

    def slot(self, node: fx.Node) -> Slot | None:
        """The slot that a node runs, if any."""
        return self._slots.get(str(node.target)) if node.op == "call_module" else None

    def entered(self, node: fx.Node, values: Values) -> Tensor:
        """What enters the slot that a node runs."""
        entry = node.args[0]
        assert isinstance(entry, fx.Node)  # a slot has one input, a tensor
        value: Tensor = values[entry]
        return value

    def evaluate(self, node: fx.Node, values: Values, inputs: Iterator[Tensor]) -> Any:
        """The value of a node; of the last one the network's outputs."""
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
