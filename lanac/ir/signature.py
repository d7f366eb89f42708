"""Signatures: equal for modules that do the same work on the same shapes, whatever their weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

from lanac.ir.graphs import read_attribute
from lanac.ir.spec import TensorSpec


def signature(module: nn.Module, spec: TensorSpec) -> str:
    """A text of a module's graph, its layers with their options, and its input.

    Args:
        module: traceable by torch.fx.
        spec: of its one input.
    """
    graph_module = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(module)
    numbers = {node: f"%{place}" for place, node in enumerate(graph_module.graph.nodes)}
    lines = [str(spec), str(spec.shape[0])]
    for node in graph_module.graph.nodes:
        what = _function(node.target)
        if node.op == "call_module":
            what = repr(graph_module.get_submodule(str(node.target)))
        elif node.op == "get_attr":
            what = str(tuple(read_attribute(graph_module, str(node.target)).shape))
        elif node.op == "placeholder":
            what = ""
        arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: _Name(numbers[n]))
        lines.append(f"{numbers[node]} {node.op} {what} {arguments!r}")
    return "\n".join(lines)


def _function(target: Any) -> str:
    """The name of torch's functions, the source of all others: an edited one does other work."""
    name = str(getattr(target, "__qualname__", target))
    if not inspect.isfunction(target) or target.__module__.partition(".")[0] == "torch":
        return name
    try:
        return inspect.getsource(target)
    except OSError:
        return name


class _Name(str):
    """A string that prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
