"""Modules that torch.fx cannot trace, as torch.export sees them: operators, in evaluation."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from lanac.ir import export_program

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Calls:
    """What the modules of a student are called with; known after one run, made when first asked.

    Args:
        student: in eval mode.
        inputs: example inputs; without any, no call is known.
    """

    def __init__(self, student: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._student, self._inputs = student, inputs
        self._seen: dict[nn.Module, Arguments] | None = None

    def of(self, module: nn.Module) -> Arguments | None:
        """Arguments and keywords of the module's first call, tensors without their values."""
        if self._seen is None:
            self._seen = self._run() if self._inputs else {}
        return self._seen.get(module)

    @torch.no_grad()
    def _run(self) -> dict[nn.Module, Arguments]:
        seen: dict[nn.Module, Arguments] = {}

        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            if module not in seen:
                seen[module] = _pytree.tree_map_only(Tensor, _meta, (args, kwargs))

        hooks = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for module in self._student.modules()
        ]
        try:
            self._student(*map(_several, self._inputs))
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def _several(value: Tensor) -> Tensor:
    """At least two samples: torch.export takes a size of one for a constant."""
    return torch.cat([value, value]) if value.ndim and len(value) == 1 else value.clone()


def _meta(value: Tensor) -> Tensor:
    return torch.empty_like(value, device="meta")


@dataclass(frozen=True)
class Frozen:
    """A module as a graph of ATen operators, and who holds the weights that it names."""

    root: nn.Module
    graph: fx.Graph


def freeze(module: nn.Module, call: Arguments) -> Frozen:
    """Exports a module with a free batch size.

    Args:
        module: in eval mode.
        call: arguments and keywords to call it with, as `Calls` gives them.

    Raises:
        Exception: whatever torch.export raises for a module that it cannot express.
    """
    args, kwargs = _pytree.tree_map_only(Tensor, _example, call)
    # AUTO: the batch is free where the module's code leaves it free.
    shapes = _pytree.tree_map(_free_batch, (args, kwargs))
    names = list(inspect.signature(module.forward).parameters)
    by_name = dict(zip(names, shapes[0], strict=False)) | shapes[1]
    if len(args) > len(names):
        by_name = None  # *args: torch.export has no way to name these
    exported = export_program(module, args, kwargs, by_name)
    inner = exported.module(check_guards=False)
    graph = fx.Graph()
    leaves = list(_parameters(graph, names, args, kwargs))
    tensors = [leaf for leaf, value in leaves if isinstance(value, Tensor)]
    copied: dict[fx.Node, Any] = {}
    for node in inner.graph.nodes:
        if node.op == "placeholder":
            copied[node], _ = leaves.pop(0)
        elif node.op == "output":
            flat = [copied[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in node.args[0]]
            graph.output(_pytree.tree_unflatten(flat, exported.call_spec.out_spec))
        elif not (isinstance(node.target, torch._ops.OpOverload) and _is_assert(node.target)):
            copied[node] = graph.node_copy(node, copied.__getitem__)
    _follow_the_input(graph, tensors)
    graph.eliminate_dead_code()
    return Frozen(inner, graph)


def _is_assert(target: torch._ops.OpOverload) -> bool:
    name = str(target)
    return name.startswith(("aten._assert", "aten.sym_constrain"))


def _follow_the_input(graph: fx.Graph, tensors: list[fx.Node]) -> None:
    """Tensors are made where the input is, not where it was when the module was exported."""
    fixed = [n for n in graph.nodes if isinstance(n.kwargs.get("device"), torch.device)]
    if fixed and tensors:
        with graph.inserting_after(tensors[0]):
            device = graph.call_function(getattr, (tensors[0], "device"))
        for node in fixed:
            node.kwargs = {**node.kwargs, "device": device}


def _example(value: Tensor) -> Tensor:
    return torch.zeros(value.shape, dtype=value.dtype)


def _free_batch(value: Any) -> Any:
    is_batch = isinstance(value, Tensor) and value.ndim > 0 and len(value) > 1
    return {0: torch.export.Dim.AUTO} if is_batch else None


def _parameters(
    graph: fx.Graph, names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[fx.Node, Any]]:
    """Makes the parameters of the graph; gives the leaves of the arguments and their values."""
    more = [f"argument_{place}" for place in range(len(names), len(args))]
    for value, name in zip(args, [*names, *more], strict=False):
        yield from _leaves(graph, graph.placeholder(name), value)
    for name, value in kwargs.items():
        yield from _leaves(graph, graph.placeholder(name), value)


def _leaves(graph: fx.Graph, node: fx.Node, value: Any) -> Iterator[tuple[fx.Node, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    else:
        yield node, value
    for key, item in items:
        yield from _leaves(graph, graph.call_function(operator.getitem, (node, key)), item)
