"""Tracing: a trained module becomes a torch.fx graph with a spec for every tensor.

In stages: torch.fx; torch.fx with the modules that resist as opaque leaves; torch.export where the
network's own forward resists. What comes out is compared with the model, for two batch sizes.
"""

from __future__ import annotations

import operator
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import lanac
from lanac.errors import TraceError
from lanac.frontend.admission import admit
from lanac.frontend.cleanup import (
    dropout_to_modules,
    is_in_place,
    remove_asserts,
    show_writes,
    switch_calls,
)
from lanac.frontend.observing import Observation, observe
from lanac.frontend.tracer import ShapeTracer, asks_for_training, other_batch
from lanac.ir import TensorSpec


@dataclass(frozen=True)
class Trace:
    """A traced teacher.

    Attributes:
        module: its graph; shares the weights of the model.
        seen: what flows through it with the example inputs, and with another batch size.
        notes: what a user should know about how it was traced, a sentence each.
    """

    module: fx.GraphModule
    seen: tuple[Observation, ...]
    notes: tuple[str, ...] = ()

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Spec of every tensor by node name."""
        return self.seen[0].specs


def trace(model: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...] = ()) -> Trace:
    """Traces the model in eval mode.

    Args:
        model: the trained teacher; it is put into eval mode and not changed otherwise.
        inputs: example inputs; further arguments of `forward` keep their defaults.
        names: the arguments of `forward` that the inputs are for, where they are given by keyword.

    Returns:
        The graph module (it shares the model's weights) and the spec of every tensor by node name.

    Raises:
        TraceError: the model fails on the inputs, cannot be traced, or the graph computes
            something else than the model.
    """
    model = admit(model)
    model.eval()
    expected = run_model(model, inputs, names=names)
    module, notes = _symbolic_trace(model, inputs, names)
    module.graph.lint()
    module.recompile()
    seen = [observe(module, inputs)]
    # Run as a module: the interpreter gives torch.fx's own kinds of list and dict.
    _check_equal(expected, run_model(module, inputs))
    notes += _check_other_batch(model, module, inputs, names)
    more = other_batch(inputs)
    if more is not None:
        seen.append(observe(module, more))
    return Trace(module, tuple(seen), tuple(notes))


def run_model(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    what: str = "its example input",
    source: str = "train_data() (or example_inputs())",
    names: tuple[str, ...] = (),
) -> Any:
    """The model's outputs, without gradients; TraceError where it fails.

    `what` the inputs are and their `source` are for the message; `names` are the arguments that
    they are for, where given by keyword.
    """
    copies = [value.clone() for value in inputs]  # the model may write into them
    try:
        with torch.no_grad():
            return model(**dict(zip(names, copies, strict=True))) if names else model(*copies)
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise TraceError(
            f"the model fails on {what} of shape {shapes}: "
            f"{type(error).__name__}: {_first_line(error)}. "
            f"Check that {source} gives what model() expects."
        ) from error


def _symbolic_trace(
    model: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...]
) -> tuple[fx.GraphModule, list[str]]:
    notes: list[str] = []
    opaque: frozenset[str] = frozenset()
    while True:
        tracer = ShapeTracer(inputs, names, opaque)
        try:
            module = _graph_module(model, tracer)
            break
        except Exception as error:
            offender = _offender(model, tracer)
            reason = f"{_first_line(error)}, in {_place(error)}"
            if offender is None:
                raise TraceError(
                    f"{type(model).__name__} cannot be traced: {reason}. Move this out of "
                    "forward(), or into a module of its own, which lanac then keeps as it is."
                ) from error
            kind = type(model.get_submodule(offender))
            alike = {name for name, part in model.named_modules() if type(part) is kind}
            opaque |= alike | {offender}
            notes.append(
                f"{offender} ({kind.__name__}) and modules of its class are kept as they are: "
                f"{reason}"
            )
    notes += _restore_switches(model, module, tracer, ShapeTracer(inputs, names, opaque))
    return module, notes


def _graph_module(model: nn.Module, tracer: ShapeTracer) -> fx.GraphModule:
    before = set(vars(model))
    try:
        graph = tracer.trace(model)
        module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    finally:
        for name in set(vars(model)) - before:
            delattr(model, name)  # torch.fx stores the constants that it meets in the model
    module.train(model.training)
    remove_asserts(graph)
    show_writes(module, graph)
    graph.eliminate_dead_code(lambda node: _has_effect(module, node))
    return module


def _has_effect(module: nn.Module, node: fx.Node) -> bool:
    return node.op in ("placeholder", "output") or is_in_place(module, node)


def _offender(model: nn.Module, tracer: ShapeTracer) -> str | None:
    """The innermost module whose code was running and that is no leaf yet; None for the model."""
    for path, _ in reversed(tracer.module_stack.values()):
        if path and not tracer.is_leaf_module(model.get_submodule(path), path):
            return path
    return None


def _restore_switches(
    model: nn.Module, module: fx.GraphModule, tracer: ShapeTracer, again: ShapeTracer
) -> list[str]:
    """Lets dropout and the like switch again; notes where that is not possible."""
    notes = []
    if _asks_for_training(model, tracer):
        state = {name: value.clone() for name, value in model.named_buffers()}
        model.train()
        try:
            in_training = _graph_module(model, again).graph
        except Exception as error:
            notes.append(f"traced in evaluation only; in training: {_first_line(error)}")
        else:
            baked = switch_calls(module, in_training)
            notes += [
                f"{path or type(model).__name__} differs in training; the student keeps to what it "
                "does in evaluation"
                for path in baked
            ]
        finally:
            model.eval()
            for name, value in model.named_buffers():
                value.copy_(state[name])
    dropout_to_modules(module)
    return notes


def _asks_for_training(model: nn.Module, tracer: ShapeTracer) -> bool:
    """Whether code that was traced through reads the training flag."""
    kinds = {
        type(part)
        for path, part in model.named_modules()
        if not path or not tracer.is_leaf_module(part, path)
    }
    return any(
        asks_for_training(function)
        for kind in kinds
        for cls in kind.__mro__
        if not cls.__module__.startswith("torch.")
        for function in vars(cls).values()
        if callable(function) and hasattr(function, "__code__")
    )


def _check_other_batch(
    model: nn.Module, module: fx.GraphModule, inputs: tuple[Tensor, ...], names: tuple[str, ...]
) -> list[str]:
    """Compares model and graph for one sample more; notes what they say."""
    more = other_batch(inputs)
    if more is None:
        return []
    try:
        expected = run_model(model, tuple(more), names=names)
    except TraceError:
        return [f"the network takes batches of {inputs[0].shape[0]} only"]
    _check_equal(expected, run_model(module, tuple(more)), "with another batch size")
    return []


def _check_equal(expected: Any, actual: Any, where: str = "on its example input") -> None:
    leaves, structure = torch.utils._pytree.tree_flatten(_plain(expected))
    traced, traced_structure = torch.utils._pytree.tree_flatten(_plain(actual))
    same = len(leaves) == len(traced) and all(
        _same(a, b) for a, b in zip(leaves, traced, strict=True)
    )
    if not same or structure != traced_structure:
        raise TraceError(
            f"the traced graph does not compute what the model computes {where}. "
            "Random numbers or state in forward() are the usual reason."
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return bool(operator.eq(a, b))


def _plain(value: Any) -> Any:
    """Dictionaries of any kind as plain ones: an OrderedDict is traced to a dict."""
    if isinstance(value, dict) and type(value).__name__ in ("OrderedDict", "dict"):
        return {name: _plain(item) for name, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_plain(item) for item in value)
    return value


def _place(error: BaseException) -> str:
    """File and line of the innermost frame that is neither torch's nor lanac's."""
    own = [str(Path(torch.__file__).parent), str(Path(lanac.__file__).parent)]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(tuple(own))]
    if not theirs:
        return "an unknown place"
    frame = theirs[-1]
    line = f": {frame.line}" if frame.line else ""
    return f"{frame.filename}, line {frame.lineno}{line}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
