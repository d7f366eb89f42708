"""The expectation: what the model itself computes, which all that is made of it has to compute too."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lanac.errors import TraceError, first_line
from lanac.frontend.equality import difference
from lanac.frontend.keeping import attributes_kept
from lanac.frontend.tracer import other_batch

_SMALL = 64
"""Least height and width in pixels to which images are cropped for another batch size."""


def run_model(
    model: nn.Module,
    inputs: Sequence[Tensor],
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
            f"{type(error).__name__}: {first_line(error)}. "
            f"Check that {source} gives what model() expects."
        ) from error


@dataclass(frozen=True)
class _Run:
    """One run of the model.

    Attributes:
        inputs: what it was given.
        outputs: what it computed.
        what: what the inputs are, for messages.
    """

    inputs: tuple[Tensor, ...]
    outputs: Any
    what: str


class Expectation:
    """What the model computes for the example and for another batch size.

    Another batch size shows what depends on it, and large images show it no better than small ones:
    where the network takes it, they are cropped, which saves most of the time. What is found to
    differ on a crop has to differ on whole images to count: a graph may hold for one size only.

    Args:
        model: in eval mode.
        inputs: example inputs.
        names: the arguments of `forward` that the inputs are for, where given by keyword.

    Raises:
        TraceError: the model fails on the example.
    """

    def __init__(
        self, model: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...] = ()
    ) -> None:
        self._model, self._names = model, names
        self._example = _Run(inputs, run_model(model, inputs, names=names), "its example input")
        more = other_batch(inputs)
        self._more = None if more is None else tuple(more)
        self._other: _Run | None = None
        if self._more is not None:
            self._other = self._run_other(_cropped(self._more)) or self._run_other(self._more)

    @property
    def takes_other_batches(self) -> bool:
        """Whether the model runs with another batch size than the example's."""
        return self._other is not None

    def check(self, module: nn.Module, is_exact: bool = True) -> None:
        """Compares a module with the model, on the example and on another batch size.

        Args:
            module: takes the inputs by position.
            is_exact: bit for bit; else as close as operators are that were taken apart.

        Raises:
            TraceError: it does not compute what the model computes.
        """
        self._compare(module, self._example, is_exact)
        if self._other is None or self._more is None:
            return
        is_crop = self._other.inputs[0].shape != self._more[0].shape
        if is_crop and self._problem(module, self._other, is_exact) is not None:
            self._other = self._run_other(self._more)
        elif is_crop:
            return
        if self._other is not None:
            self._compare(module, self._other, is_exact)

    def _run_other(self, inputs: tuple[Tensor, ...] | None) -> _Run | None:
        if inputs is None:
            return None
        try:
            with attributes_kept(self._model):
                outputs = run_model(self._model, inputs, names=self._names)
        except TraceError:
            return None
        return _Run(inputs, outputs, "another batch size")

    def _problem(self, module: nn.Module, run: _Run, is_exact: bool) -> str | None:
        try:
            # Run as a module: the interpreter gives torch.fx's own kinds of list and dict.
            # torch.fx prints where generated code fails; a message says it here.
            with attributes_kept(module), contextlib.redirect_stderr(io.StringIO()):
                return difference(run.outputs, run_model(module, run.inputs), is_exact)
        except TraceError as error:
            cause = error.__cause__ or error
            return f"it fails: {type(cause).__name__}: {first_line(cause)}"

    def _compare(self, module: nn.Module, run: _Run, is_exact: bool) -> None:
        problem = self._problem(module, run, is_exact)
        if problem is None:
            return
        reason = (
            "A condition on types (isinstance(x, Tensor)), a context such as autocast, or a write "
            "that cannot be seen (+= on a view, out=, x.data = ...) is the usual reason; rewrite it."
        )
        again = run_model(self._model, self._example.inputs, names=self._names)
        if difference(self._example.outputs, again) is not None:
            reason = (
                "The model itself computes something else the second time: it has random "
                "numbers or state in forward(). Take them out, at least in eval mode."
            )
        elif run is not self._example:
            reason = "A condition on the batch size is the usual reason; take it out."
        raise TraceError(
            "the traced graph does not compute what the model computes on "
            f"{run.what} ({problem}). {reason}"
        )


def _cropped(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Images as halves of halves, still of at least `_SMALL` pixels; None where that is no less."""
    if len(inputs) != 1 or inputs[0].dim() != 4:
        return None
    height, width = inputs[0].shape[2:]
    share = 1
    while min(height, width) >= 2 * share * _SMALL and not (
        height % (2 * share) or width % (2 * share)
    ):
        share *= 2
    if share == 1:
        return None
    return (inputs[0][:, :, : height // share, : width // share].contiguous(),)
