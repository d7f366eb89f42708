"""What torch.fx's nodes do: questions that many parts ask of a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx, nn

_IN_PLACE = {
    getattr(operator, name)
    for name in dir(operator)
    if name.startswith("i") and hasattr(operator, name[1:]) and not name.startswith("__")
}

CallModule = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


def read_attribute(root: nn.Module, path: str) -> Any:
    """The parameter, buffer or module that a node names by its path."""
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def run_node(
    root: nn.Module,
    node: fx.Node,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    call_module: CallModule = lambda module, args, kwargs: module(*args, **kwargs),
) -> Any:
    """The value of a node that is neither an input nor the output of its graph.

    Args:
        root: the graph's module.
        node: what to run.
        arguments: its arguments, values in the place of nodes.
        keywords: its keywords, likewise.
        call_module: calls a leaf module.
    """
    if node.op == "get_attr":
        return read_attribute(root, str(node.target))
    if node.op == "call_module":
        return call_module(root.get_submodule(str(node.target)), tuple(arguments), {**keywords})
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
    assert callable(node.target)  # the only kind left: call_function
    return node.target(*arguments, **keywords)


def set_items_(x: Any, place: Any, value: Any) -> Any:
    """`x[place] = value` as a call with a value, so that a graph can hold it."""
    x[place] = value
    return x


def function_name(node: fx.Node) -> str:
    """The bare name of the function or method that a node calls; '' for other nodes.

    The same for `torch.add`, `x.add` and the ATen operator `add.Tensor`.
    """
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", "")).split(".")[0]
    return ""


def is_in_place(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node writes into its first input."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    name = function_name(node)
    written = name.endswith("_") and not name.startswith("_") and bool(node.args)
    return node.target in _IN_PLACE or written or node.kwargs.get("inplace") is True
