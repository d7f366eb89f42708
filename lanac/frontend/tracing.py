"""Tracing: a trained module becomes a torch.fx graph with a spec for every tensor.

In stages: torch.fx; torch.fx with the modules that resist as opaque leaves; torch.export where the
network's own forward resists. What comes out is compared with the model, for two batch sizes.
"""

from __future__ import annotations

import traceback
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
    has_effect,
    remove_asserts,
    show_writes,
    switch_calls,
)
from lanac.frontend.equality import difference
from lanac.frontend.exporting import export_graph
from lanac.frontend.fakes import fake_mode
from lanac.frontend.keeping import attributes_kept
from lanac.frontend.observing import Observation, observe
from lanac.frontend.tracer import ShapeTracer, asks_for_training, larger_batch, other_batch
from lanac.ir import TensorSpec

FX, FX_WITH_OPAQUE, EXPORT = "torch.fx", "torch.fx with modules kept whole", "torch.export"


@dataclass(frozen=True)
class Trace:
    """A traced teacher.

    Attributes:
        model: what was traced.
        module: its graph; shares the weights of the model.
        inputs: the example inputs.
        seen: what flows through it with them.
        expected: what the model computes for the example inputs.
        expected_more: and for the other batch size; None where it takes no other.
        how: which stage of tracing succeeded, such as `torch.fx`.
        notes: what a user should know about how it was traced, a sentence each.
        names: the arguments of its `forward` that the inputs are for, where given by keyword.
    """

    model: nn.Module
    module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    seen: Observation
    expected: Any
    expected_more: Any = None
    how: str = FX
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Spec of every tensor by node name."""
        return self.seen.specs

    def see_more(self) -> Observation | None:
        """What flows through it with another batch size; None where it takes no other."""
        more = larger_batch(self.inputs) if self.expected_more is not None else None
        return None if more is None else observe(self.module, more)

    def check(self, module: nn.Module) -> None:
        """Compares a module with the model, on the example and on another batch size.

        Raises:
            TraceError: it does not compute what the model computes.
        """
        self._check(self.expected, module, self.inputs, "its example input")
        more = other_batch(self.inputs)
        if more is not None and self.expected_more is not None:
            self._check(self.expected_more, module, tuple(more), "another batch size")

    def _check(
        self, expected: Any, module: nn.Module, inputs: tuple[Tensor, ...], what: str
    ) -> None:
        # Run as a module: the interpreter gives torch.fx's own kinds of list and dict.
        is_exact = self.how != EXPORT
        problem = difference(expected, run_model(module, inputs), is_exact)
        if problem is None:
            return
        reason = (
            "A condition on types (isinstance(x, Tensor)), a context such as autocast, or a write "
            "that cannot be seen (+= on a view, out=, x.data = ...) is the usual reason; rewrite it."
        )
        again = run_model(self.model, inputs, names=self.names)
        if difference(expected, again) is not None:
            reason = (
                "The model itself computes something else the second time: it has random "
                "numbers or state in forward(). Take them out, at least in eval mode."
            )
        elif what != "its example input":
            reason = "A condition on the batch size is the usual reason; take it out."
        raise TraceError(
            f"the traced graph does not compute what the model computes on {what} ({problem}). "
            + reason
        )


def trace(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...] = (),
    check: bool = True,
    distrust: str = "",
) -> Trace:
    """Traces the model in eval mode.

    Args:
        model: the trained teacher; it is put into eval mode and not changed otherwise.
        inputs: example inputs; further arguments of `forward` keep their defaults.
        names: the arguments of `forward` that the inputs are for, where they are given by keyword.
        check: whether the graph is compared with the model; else the caller does it.
        distrust: why torch.fx is not to be used, only torch.export; '' where it is.

    Raises:
        TraceError: the model fails on the inputs, cannot be traced, or the graph computes
            something else than the model.
    """
    model = admit(model).eval()
    if any(value.dim() and not len(value) for value in inputs):
        raise TraceError(
            "the example input has no samples: nothing could be compared. Check that train_data() "
            "(or example_inputs()) gives at least one."
        )
    expected = run_model(model, inputs, names=names)
    mode = fake_mode()
    module, how, notes = (
        _exported(model, inputs, names, distrust)
        if distrust
        else _to_graph(model, inputs, names, mode)
    )
    module.graph.lint()
    module.recompile()
    seen, expected_more = observe(module, inputs, mode), None
    more = other_batch(inputs)
    if more is not None:
        try:
            expected_more = run_model(model, tuple(more), names=names)
        except TraceError:
            notes.append(f"the network takes batches of {inputs[0].shape[0]} only")
    traced = Trace(model, module, inputs, seen, expected, expected_more, how, tuple(notes), names)
    if check:
        traced.check(module)
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
        with attributes_kept(model):
            module = export_graph(model, inputs, names)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be traced: {reason}. Move this out of "
            "forward(), or into a module of its own, which lanac then keeps as it is."
        ) from error
    show_writes(module, module.graph)
    module.graph.eliminate_dead_code(lambda node: has_effect(module, node))
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
    with attributes_kept(model):
        graph = tracer.trace(model)
        read = {node.target for node in graph.nodes if node.op == "get_attr"}
        constants = {name: vars(model)[name] for name in (set(vars(model)) - before) & read}
    try:
        vars(model).update(constants)  # torch.fx looks for what it has met in the model
        module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    finally:
        for name in constants:
            delattr(model, name)
    module.train(model.training)
    remove_asserts(graph)
    show_writes(module, graph)
    graph.eliminate_dead_code(lambda node: has_effect(module, node))
    return module


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
