"""Tracing: a trained module becomes a torch.fx graph with a spec for every tensor.

In stages: torch.fx; torch.fx with the modules that resist as opaque leaves; torch.export where the
network's own forward resists. What comes out is compared with the model, for two batch sizes.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lanac
from lanac.errors import TraceError, first_line
from lanac.frontend.admission import admit
from lanac.frontend.cleanup import (
    dropout_to_modules,
    has_effect,
    remove_asserts,
    show_writes,
    switch_calls,
    views_to_reshapes,
    write_into_copies,
)
from lanac.frontend.expectation import Expectation
from lanac.frontend.exporting import export_graph
from lanac.frontend.fakes import fake_mode
from lanac.frontend.keeping import attributes_kept
from lanac.frontend.observing import Observation, observe
from lanac.frontend.tracer import ShapeTracer, asks_for_training, larger_batch
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
        expected: what the model computes.
        how: which stage of tracing succeeded, such as `torch.fx`.
        notes: what a user should know about how it was traced, a sentence each.
        names: the arguments of its `forward` that the inputs are for, where given by keyword.
    """

    model: nn.Module
    module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    seen: Observation
    expected: Expectation
    how: str = FX
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Spec of every tensor by node name."""
        return self.seen.specs

    def see_more(self) -> Observation | None:
        """What flows through it with another batch size; None where it takes no other."""
        more = larger_batch(self.inputs) if self.expected.takes_other_batches else None
        return None if more is None else observe(self.module, more)

    def check(self, module: nn.Module) -> None:
        """Compares a module with the model, on the example and on another batch size.

        Raises:
            TraceError: it does not compute what the model computes.
        """
        self.expected.check(module, is_exact=self.how != EXPORT)


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
    expected = Expectation(model, inputs, names)
    mode = fake_mode()
    module, how, notes = (
        _exported(model, inputs, names, distrust)
        if distrust
        else _to_graph(model, inputs, names, mode)
    )
    module.graph.lint()
    module.recompile()
    if not expected.takes_other_batches and larger_batch(inputs) is not None:
        notes.append(f"the network takes batches of {inputs[0].shape[0]} only")
    seen = observe(module, inputs, mode)
    if write_into_copies(module, seen.hidden_reads):
        seen = observe(module, inputs, mode)
    traced = Trace(model, module, inputs, seen, expected, how, tuple(notes), names)
    if check:
        traced.check(module)
    return traced


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
            reason = f"{first_line(error)}, in {_place(error)}"
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
    views_to_reshapes(module, module.graph)
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
    views_to_reshapes(module, graph)
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
            notes.append(f"traced in evaluation only; in training: {first_line(error)}")
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
