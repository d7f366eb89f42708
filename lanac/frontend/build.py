"""From a trained module to a program that is shown to compute the same."""

from __future__ import annotations

from torch import Tensor, nn

from lanac.errors import LanacError, TraceError
from lanac.frontend.partition import BLOCKS, SlotOptions, partition
from lanac.frontend.tracing import EXPORT, Trace, trace
from lanac.ir import Program, verify_program

_UNSEEN = (
    "it does not see all that the network does (a condition on types, a context such as autocast, "
    "a write through a view)"
)
"""What torch.export sees and torch.fx does not, where a graph differs from its model."""


def build_program(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...] = (),
    options: SlotOptions = BLOCKS,
) -> Program:
    """Traces a teacher and cuts it into slots.

    The teacher, rewritten with its own ops, is compared with the model bit for bit, on the example
    and on another batch size: where equality cannot be shown, there is no program.

    Args:
        model: the trained teacher; put into eval mode, not changed otherwise.
        inputs: example inputs, batch first.
        names: the arguments of `forward` that the inputs are for, where given by keyword.
        options: what becomes a slot.

    Raises:
        TraceError: the model cannot be traced, or the program computes something else.
        ProgramError: nothing in it can become a slot.
    """
    traced = trace(model, inputs, names, check=False)
    try:
        return _cut(traced, options)
    except TraceError as error:
        if traced.how == EXPORT:
            raise
        try:
            return _cut(trace(model, inputs, names, check=False, distrust=_UNSEEN), options)
        except LanacError:
            raise error from None


def _cut(traced: Trace, options: SlotOptions) -> Program:
    """Cuts and compares: TraceError where the program computes something else than the model."""
    program = partition(traced, options)
    verify_program(program)
    traced.check(program.split())
    return program
