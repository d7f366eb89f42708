"""The last resort: torch.export, for a network whose own forward torch.fx cannot trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.ir import export_program


def export_graph(
    model: nn.Module, inputs: Sequence[Tensor], names: Sequence[str] = ()
) -> fx.GraphModule:
    """The model as a graph of ATen operators, in evaluation, with a free batch size.

    Args:
        model: in eval mode; what it does in training is lost.
        inputs: example inputs, batch first.
        names: the arguments of `forward` that the inputs are for, where given by keyword.

    Returns:
        A graph module that shares the model's weights and names them as the model does.
    """
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    # An export for one sample would hold for one sample only.
    examples = tuple(value if len(value) > 1 else torch.cat([value, value]) for value in inputs)
    exported = export_program(
        model,
        () if names else examples,
        dict(zip(names, examples, strict=True)) if names else None,
        dict(zip(names, shapes, strict=True)) if names else shapes,
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
        graph.output(_as_argument(graph, nested))
    return fx.GraphModule(inner, graph, class_name=type(model).__name__).eval()


def _as_argument(graph: fx.Graph, value: Any) -> Any:
    """Nested outputs as torch.fx takes them: classes become calls of the class."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return graph.call_function(type(value), tuple(_as_argument(graph, v) for v in value))
    if isinstance(value, tuple | list):
        return type(value)(_as_argument(graph, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        arguments = {k: _as_argument(graph, v) for k, v in given.items() if v is not None}
        return graph.call_function(type(value), (), arguments)
    if isinstance(value, dict):
        return {name: _as_argument(graph, item) for name, item in value.items()}
    return value
