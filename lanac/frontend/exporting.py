"""The last resort: torch.export, for a network whose own forward torch.fx cannot trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn


def export_graph(
    model: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], create_arg: Callable[..., Any]
) -> fx.GraphModule:
    """The model as a graph of ATen operators, in evaluation, with a free batch size.

    Args:
        model: in eval mode; what it does in training is lost.
        inputs: example inputs, batch first.
        names: the arguments of `forward` that the inputs are for, where given by keyword.
        create_arg: `create_arg(graph, value)` makes an argument of nested outputs.

    Returns:
        A graph module that shares the model's weights and names them as the model does.
    """
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    # An export for one sample would hold for one sample only.
    examples = tuple(value if len(value) > 1 else torch.cat([value, value]) for value in inputs)
    with torch.no_grad():
        exported = torch.export.export(
            model,
            () if names else examples,
            dict(zip(names, examples, strict=True)) if names else None,
            dynamic_shapes=dict(zip(names, shapes, strict=True)) if names else shapes,
            strict=False,
        )
    inner = exported.module(check_guards=False)
    graph = fx.Graph()
    copied: dict[fx.Node, Any] = {}
    for node in inner.graph.nodes:
        if node.op != "output":
            copied[node] = graph.node_copy(node, copied.__getitem__)
            continue
        leaves = [copied[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in node.args[0]]
        nested = torch.utils._pytree.tree_unflatten(leaves, exported.call_spec.out_spec)
        graph.output(create_arg(graph, nested))
    return fx.GraphModule(inner, graph, class_name=type(model).__name__).eval()
