"""Tracing: a trained module becomes a torch.fx graph with a spec for every tensor.

In stages: torch.fx; torch.fx with the modules that resist as opaque leaves; torch.export where the
network's own forward resists. What comes out is compared with the model, for two batch sizes.
"""

from __future__ import annotations

import dataclasses
import operator
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
from lanac.frontend.exporting import export_graph
from lanac.frontend.fakes import fake_mode
from lanac.frontend.observing import Observation, observe
from lanac.frontend.tracer import ShapeTracer, asks_for_training, larger_batch, other_batch
from lanac.ir import TensorSpec

FX, FX_WITH_OPAQUE, EXPORT = "torch.fx", "torch.fx with modules kept whole", "torch.export"


@dataclass(frozen=True)
class Trace:
    """A traced teacher.

    Attributes:
        module: its graph; shares the weights of the model.
        inputs: the example inputs.
        seen: what flows through it with them.
        expected: what the model computes for the example inputs.
        expected_more: and for the other batch size; None where it takes no other.
        how: which stage of tracing succeeded, such as `torch.fx`.
        notes: what a user should know about how it was traced, a sentence each.
    """

    module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    seen: Observation
    expected: Any
    expected_more: Any = None
    how: str = FX
    notes: tuple[str, ...] = ()

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Spec of every tensor by node name."""
        return self.seen.specs

    def see_more(self) -> Observation | None:
        """What flows through it with another batch size; None where it takes no other."""
        more = larger_batch(self.inputs) if self.expected_more is not None else None
        return None if more is None else observe(self.module, more)


def trace(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...] = (),
    check: bool = True,
) -> Trace:
    """Traces the model in eval mode.

    Args:
        model: the trained teacher; it is put into eval mode and not changed otherwise.
        inputs: example inputs; further arguments of `forward` keep their defaults.
        names: the arguments of `forward` that the inputs are for, where they are given by keyword.
        check: whether the graph is compared with the model; else the caller does it.

    Raises:
        TraceError: the model fails on the inputs, cannot be traced, or the graph computes
            something else than the model.
    """
    model = admit(model).eval()
    expected = run_model(model, inputs, names=names)
    mode = fake_mode()
    module, how, notes = _to_graph(model, inputs, names, mode)
    module.graph.lint()
    module.recompile()
    seen, expected_more = observe(module, inputs, mode), None
    more = other_batch(inputs)
    if more is not None:
        try:
            expected_more = run_model(model, tuple(more), names=names)
        except TraceError:
            notes.append(f"the network takes batches of {inputs[0].shape[0]} only")
    traced = Trace(module, inputs, seen, expected, expected_more, how, tuple(notes))
    if check:
        # Run as a module: the interpreter gives torch.fx's own kinds of list and dict.
        check_equal(expected, run_model(module, inputs), traced)
        if more is not None and expected_more is not None:
            check_equal(expected_more, run_model(module, tuple(more)), traced, "another batch size")
    return traced


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


def _to_graph(
    model: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...], mode: FakeTensorMode
) -> tuple[fx.GraphModule, str, list[str]]:
    """Graph module, the stage that gave it, and notes."""
    notes: list[str] = []
    opaque: frozenset[str] = frozenset()
    while True:
        tracer = ShapeTracer(inputs, names, opaque, mode)
        try:
            module = _symbolic_trace(model, tracer)
            break
        except Exception as error:
            offender = _offender(model, tracer)
            reason = f"{_first_line(error)}, in {_place(error)}"
            if offender is None:
                return _exported(model, inputs, names, reason)
            kind = type(model.get_submodule(offender))
            opaque |= {name for name, part in model.named_modules() if type(part) is kind}
            notes.append(f"modules of class {kind.__name__} ({offender}) are kept whole: {reason}")
    notes += _restore_switches(model, module, ShapeTracer(inputs, names, opaque, mode))
    return module, FX_WITH_OPAQUE if opaque else FX, notes


def _exported(
    model: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...], reason: str
) -> tuple[fx.GraphModule, str, list[str]]:
    """The last stage; `reason`: why torch.fx failed on the model's own forward."""
    try:
        module = export_graph(model, inputs, names)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be traced: {reason}. Move this out of "
            "forward(), or into a module of its own, which lanac then keeps as it is."
        ) from error
    show_writes(module, module.graph)
    module.graph.eliminate_dead_code(lambda node: _has_effect(module, node))
    return (
        module,
        EXPORT,
        [
            f"traced by torch.export, because torch.fx cannot: {reason}. "
            "Batch norm and dropout stay as they are in evaluation"
        ],
    )


def _symbolic_trace(model: nn.Module, tracer: ShapeTracer) -> fx.GraphModule:
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


def _restore_switches(model: nn.Module, module: fx.GraphModule, tracer: ShapeTracer) -> list[str]:
    """Lets dropout and the like switch again; notes where that is not possible."""
    notes = []
    if _asks_for_training(model, tracer):
        state = {name: value.clone() for name, value in model.named_buffers()}
        model.train()
        try:
            in_training = _symbolic_trace(model, tracer).graph
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
                if not torch.equal(value, state[name]):
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


def check_equal(expected: Any, actual: Any, traced: Trace, what: str = "its example input") -> None:
    """Raises TraceError where a graph's outputs for `what` are not the model's."""
    leaves, structure = torch.utils._pytree.tree_flatten(_plain(expected))
    others, other_structure = torch.utils._pytree.tree_flatten(_plain(actual))
    same = _same if traced.how != EXPORT else _close
    if structure != other_structure or not all(map(same, leaves, others)):
        raise TraceError(
            f"the traced graph does not compute what the model computes on {what}. "
            "Random numbers or state in forward() are the usual reason."
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return bool(operator.eq(a, b))


def _close(a: Any, b: Any) -> bool:
    """Export takes operators apart, which may round differently."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.is_floating_point():
        scale = float(a.abs().max()) if a.numel() else 0.0
        return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale)
    return _same(a, b)


def _plain(value: Any) -> Any:
    """Nested outputs as what pytrees know: an OrderedDict is traced to a dict, for instance."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
        return {type(value).__name__: _plain(fields)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
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
