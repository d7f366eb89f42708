"""What a freshly traced graph is relieved of: asserts, hidden writes, baked training flags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from lanac.ir import is_in_place, set_items_

_DROPOUTS: Mapping[object, Callable[[float], nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class SwitchedCall(nn.Module):
    """A call whose constant arguments differ between evaluation and training.

    Attributes:
        function: a function, or the name of a method of the first input.
        evaluation: positional arguments and keywords; an `Input` stands for an input.
        training_: the same in training.
    """

    def __init__(self, function: Any, evaluation: Arguments, training: Arguments) -> None:
        super().__init__()
        self.function, self.evaluation, self.training_ = function, evaluation, training

    def forward(self, *inputs: Any) -> Any:
        chosen = self.training_ if self.training else self.evaluation

        def fill(value: Any) -> Any:
            return inputs[value.place] if isinstance(value, Input) else value

        args, kwargs = fx.node.map_aggregate(chosen, fill)
        if isinstance(self.function, str):
            return getattr(args[0], self.function)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        name = getattr(self.function, "__name__", self.function)
        return f"{name}, evaluation={self.evaluation}, training={self.training_}"


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Input:
    """Stands for one input of a `SwitchedCall`."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __repr__(self) -> str:
        return f"input {self.place}"


def remove_asserts(graph: fx.Graph) -> None:
    """Asserts hold for the example, and would keep shapes alive across slots."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is torch._assert:
            graph.erase_node(node)


def has_effect(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node matters though nobody reads its value."""
    return node.op in ("placeholder", "output") or is_in_place(module, node)


def show_writes(module: nn.Module, graph: fx.Graph) -> None:
    """Makes later readers of an overwritten tensor read the node that wrote it.

    It is the same tensor, so nothing changes; but the data flow becomes visible, and a slot may
    then hold an op that does not write in place.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        written = node.args[0] if node.args else None
        if isinstance(written, fx.Node) and is_in_place(module, node):
            here = places[node]
            for reader in list(written.users):
                if places[reader] > here:
                    reader.replace_input_with(written, node)


_VIEWS: Mapping[object, Any] = {
    "view": "reshape",
    "view_as": "reshape_as",
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
}


def views_to_reshapes(module: nn.Module, graph: fx.Graph) -> None:
    """A slot's op may give another memory format than the teacher's, of which there is no view.

    Where there is one, a reshape is a view. What is written through a view stays as it is.
    """
    for node in graph.nodes:
        is_dtype = len(node.args) == 2 and isinstance(node.args[1], torch.dtype)
        is_written = any(node in user.args[:1] and is_in_place(module, user) for user in node.users)
        if node.target in _VIEWS and not is_dtype and not node.kwargs and not is_written:
            node.target = _VIEWS[node.target]


def write_into_copies(module: fx.GraphModule, hidden_reads: Collection[tuple[str, str]]) -> bool:
    """Lets items be written into a copy where nobody sees the difference; whether any are.

    What is overwritten may be needed for gradients (boxes that are decoded in evaluation).

    Args:
        module: has been through `show_writes`.
        hidden_reads: pairs (writer, reader) that share memory without an edge; their writes stay.
    """
    writers = {writer for writer, _ in hidden_reads}
    changed = False
    for node in list(module.graph.nodes):
        if node.target is not set_items_ or node.name in writers:
            continue
        written = node.args[0]
        if isinstance(written, fx.Node) and written.op != "get_attr":  # state has to change
            with module.graph.inserting_before(node):
                copy = module.graph.call_method("clone", (written,))
            copy.meta = dict(node.meta, is_wrapped=False)
            node.update_arg(0, copy)
            changed = True
    if changed:
        module.recompile()
    return changed


def dropout_to_modules(module: fx.GraphModule) -> None:
    """Functional dropout becomes a module, which knows whether it is in training."""
    for node in list(module.graph.nodes):
        kind = _DROPOUTS.get(node.target) if node.op == "call_function" else None
        if kind is not None:
            probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            name = f"{node.name}_module"
            _replace_by_module(module, node, name, kind(float(probability)), node.all_input_nodes)


def switch_calls(module: fx.GraphModule, in_training: fx.Graph) -> list[str]:
    """Restores what tracing has baked of the training flag.

    Args:
        module: traced in evaluation; calls that differ in training become `SwitchedCall`.
        in_training: the graph of the same model, traced in training.

    Returns:
        Paths of modules whose graph differs in more than constant arguments; they stay as they are
        in evaluation.
    """
    graph = module.graph
    matched = _match(list(graph.nodes), list(in_training.nodes))
    if matched is None:
        return _differing_modules(graph, in_training)
    for node, other in matched.items():
        ours, theirs = _constants(node), _constants(other)
        if node.target in _DROPOUTS:
            continue  # `dropout_to_modules` makes better modules of these
        if repr(ours) == repr(theirs) or node.op not in ("call_function", "call_method"):
            continue
        switched = SwitchedCall(node.target, ours, theirs).eval()
        _replace_by_module(module, node, f"{node.name}_switch", switched, node.all_input_nodes)
    return []


def _match(ours: list[fx.Node], theirs: list[fx.Node]) -> dict[fx.Node, fx.Node] | None:
    """Pairs of nodes that do the same with the same inputs; None where the graphs differ."""
    if len(ours) != len(theirs):
        return None
    partner: dict[fx.Node, fx.Node] = {}
    for node, other in zip(ours, theirs, strict=True):
        same = (node.op, node.target) == (other.op, other.target)
        inputs = [partner[source] for source in node.all_input_nodes]
        if not same or inputs != other.all_input_nodes:
            return None
        partner[node] = other
    return partner


def _constants(node: fx.Node) -> Arguments:
    places = {source: Input(place) for place, source in enumerate(node.all_input_nodes)}

    def stand_in(value: Any) -> Any:
        return places[value] if isinstance(value, fx.Node) else value

    return fx.node.map_aggregate((node.args, dict(node.kwargs)), stand_in)


def _differing_modules(graph: fx.Graph, other: fx.Graph) -> list[str]:
    """Modules that do not call the same things in both graphs; of what is in one graph alone, the
    outermost."""

    def calls(nodes: Any) -> dict[str, list[Any]]:
        by_module: dict[str, list[Any]] = {}
        for node in nodes:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            path = stack[-1][0] if stack else ""
            by_module.setdefault(path, []).append((node.op, node.target))
        return by_module

    def outermost(path: str, absent: Collection[str]) -> str:
        while (holder := path.rpartition(".")[0]) and not any(
            f"{known}.".startswith(f"{holder}.") for known in absent
        ):
            path = holder
        return path

    ours, theirs = calls(graph.nodes), calls(other.nodes)
    both = {path for path in ours.keys() & theirs if ours[path] != theirs[path]}
    alone = {outermost(path, ours) for path in theirs.keys() - ours}
    alone |= {outermost(path, theirs) for path in ours.keys() - theirs}
    return sorted(both | alone)


def _replace_by_module(
    module: fx.GraphModule, node: fx.Node, name: str, new: nn.Module, inputs: list[fx.Node]
) -> None:
    module.add_submodule(name, new.eval())
    with module.graph.inserting_before(node):
        replacement = module.graph.call_module(name, tuple(inputs))
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    module.graph.erase_node(node)
