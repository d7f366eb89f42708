"""Calls whose constants differ in training: `dropout_p=0.1 if self.training else 0.0`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.utils import _pytree

_ATTRIBUTES = ("function", "evaluation", "training_")
"""What tells the front end's `SwitchedCall`, which backends do not import, from other modules."""


@dataclass(frozen=True)
class Switch:
    """A constant that depends on the mode."""

    in_training: Any
    in_evaluation: Any


def inline_switch(graph: fx.Graph, module: nn.Module, inputs: list[fx.Node]) -> fx.Node | None:
    """Adds the one call that a `SwitchedCall` makes; None for any other module.

    Args:
        graph: the call is added to its end.
        module: what a call_module node calls.
        inputs: what the node passes to it, as nodes of `graph`.
    """
    if not all(hasattr(module, name) for name in _ATTRIBUTES):
        return None
    called: Any = module
    evaluation, structure = _pytree.tree_flatten(called.evaluation)
    training, other = _pytree.tree_flatten(called.training_)
    if structure != other:
        return None  # one of them passes arguments that the other one does not

    def merge(in_training: Any, in_evaluation: Any) -> Any:
        if hasattr(in_evaluation, "place"):
            return inputs[in_evaluation.place]
        same = repr(in_training) == repr(in_evaluation)
        return in_evaluation if same else Switch(in_training, in_evaluation)

    args, kwargs = _pytree.tree_unflatten(map(merge, training, evaluation), structure)
    op = "call_method" if isinstance(called.function, str) else "call_function"
    return graph.create_node(op, called.function, args, kwargs)
