"""Networks with nested outputs for exporters, which know tensors in tuples and no users' classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.ir import named_tensors


@torch.no_grad()
def with_flat_outputs(
    module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The same network, with the same weights, that returns one tensor or a tuple of tensors.

    Args:
        module: in eval mode.
        inputs: example inputs; the network runs once to see what it returns.

    Returns:
        The network, and its outputs by name, as `named_tensors` has them.
    """
    outputs = module(*inputs)
    names = tuple(name for name, _ in named_tensors(outputs))
    if isinstance(outputs, Tensor) or not isinstance(module, fx.GraphModule):
        return module, names
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copied)
    output = next(node for node in module.graph.nodes if node.op == "output")
    nested = fx.node.map_arg(output.args[0], copied.__getitem__)
    graph.output(graph.call_function(_flat, (nested,)))
    flat = fx.GraphModule(module, graph, class_name=type(module).__name__)
    flat.train(module.training)
    return flat, names


def _flat(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(tensor for _, tensor in named_tensors(outputs))
