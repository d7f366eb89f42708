"""Tracing: a trained module becomes a torch.fx graph with a spec for every tensor."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.errors import TraceError
from lanac.ir import TensorSpec, record_specs


@dataclass(frozen=True)
class Trace:
    """A traced teacher.

    Attributes:
        module: its graph; shares the weights of the model.
        specs: spec of every tensor by node name.
        notes: what a user should know about how it was traced, a sentence each.
    """

    module: fx.GraphModule
    specs: dict[str, TensorSpec]
    notes: tuple[str, ...] = ()


class KeepSwitchesTracer(fx.Tracer):
    """Keeps modules that behave differently in training as leaves.

    Plain tracing would run their `if self.training` once and bake the answer into the graph, so
    that batch norm and drop path never switch again (FACTS of the project: timm's BatchNormAct2d).
    """

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        if super().is_leaf_module(module, qualified_name):
            return True
        children_have_weights = any(
            next(child.parameters(), None) is not None for child in module.children()
        )
        if children_have_weights:
            return False
        code = getattr(type(module).forward, "__code__", None)
        return code is not None and "training" in code.co_names


def trace(model: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...] = ()) -> Trace:
    """Traces the model in eval mode.

    Args:
        model: the trained teacher; it is put into eval mode and not changed otherwise.
        inputs: example inputs; further arguments of `forward` keep their defaults.
        names: the arguments of `forward` that the inputs are for, where they are given by keyword.

    Raises:
        TraceError: the model fails on the inputs, cannot be traced, or the graph computes
            something else than the model.
    """
    model.eval()
    expected = run_model(model, inputs)
    graph_module = _symbolic_trace(model, inputs)
    _clean_up(graph_module)
    specs, _ = record_specs(graph_module, inputs)
    # Run as a module: the interpreter gives torch.fx's own kinds of list and dict.
    _check_equal(expected, run_model(graph_module, inputs))
    return Trace(graph_module, specs)


def run_model(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    what: str = "its example input",
    source: str = "train_data() (or example_inputs())",
) -> Any:
    """The model's outputs, without gradients; TraceError where it fails.

    `what` the inputs are and their `source` are for the message.
    """
    try:
        with torch.no_grad():
            return model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise TraceError(
            f"the model fails on {what} of shape {shapes}: "
            f"{type(error).__name__}: {_first_line(error)}. "
            f"Check that {source} gives what model() expects."
        ) from error


def _symbolic_trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    concrete = _defaults_beyond(model.forward, len(inputs))
    try:
        graph = KeepSwitchesTracer().trace(model, concrete_args=concrete or None)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be traced by torch.fx: "
            f"{type(error).__name__}: {_first_line(error)}. Control flow that depends on values "
            "or shapes is the usual reason: move it out of forward()."
        ) from error
    _restore_outputs(graph)
    module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    module.eval()
    return module


def _restore_outputs(graph: fx.Graph) -> None:
    """Concrete arguments that are containers leave a pytree signature and flat outputs behind."""
    info = getattr(graph._codegen, "pytree_info", None)
    if info is not None and info.out_spec is not None:
        output = next(reversed(graph.nodes))
        output.args = (torch.utils._pytree.tree_unflatten(output.args[0], info.out_spec),)
    graph.set_codegen(fx.graph.CodeGen())


def _defaults_beyond(forward: Callable[..., Any], given: int) -> dict[str, Any]:
    """Arguments of `forward` that the example inputs do not fill, with their defaults."""
    parameters = list(inspect.signature(forward).parameters.values())[given:]
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty
    }


def _clean_up(module: fx.GraphModule) -> None:
    """Removes asserts and unused inputs; makes functional dropout a module that can switch."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (torch._assert, _assert_is_none):
            graph.erase_node(node)
        elif node.op == "call_function" and node.target in (F.dropout, F.dropout2d):
            _dropout_to_module(module, node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.args and not node.users:
            graph.erase_node(node)  # an argument that kept its default
    graph.lint()
    module.recompile()


_assert_is_none = fx._symbolic_trace._assert_is_none


def _dropout_to_module(module: fx.GraphModule, node: fx.Node) -> None:
    probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
    kind = nn.Dropout if node.target is F.dropout else nn.Dropout2d
    name = f"{node.name}_module"
    module.add_submodule(name, kind(float(probability)).eval())  # type: ignore[arg-type]
    with module.graph.inserting_before(node):
        replacement = module.graph.call_module(name, (node.all_input_nodes[0],))
    node.replace_all_uses_with(replacement)
    module.graph.erase_node(node)


def _check_equal(expected: Any, actual: Any) -> None:
    leaves, structure = torch.utils._pytree.tree_flatten(expected)
    traced, traced_structure = torch.utils._pytree.tree_flatten(actual)
    same = len(leaves) == len(traced) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else operator.eq(a, b)
        for a, b in zip(leaves, traced, strict=True)
    )
    if not same or structure != traced_structure:
        raise TraceError(
            "the traced graph does not compute what the model computes on its example input. "
            "Random numbers or state in forward() are the usual reason."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
