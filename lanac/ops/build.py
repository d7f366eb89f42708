"""Building an op for a slot, reproducibly, and what is asked of one that is not lanac's."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.errors import PoolError
from lanac.ir import OpSpec, TensorSpec
from lanac.ops.base import SlotView
from lanac.ops.families import INSTALLED, Families

_APART = 1e-4
"""Outputs that differ by more of the largest value are not the same up to rounding."""


def build_op(op: OpSpec, view: SlotView, seed: int, families: Families = INSTALLED) -> nn.Module:
    """The op as a module in eval mode, on the CPU.

    Its random weights follow from the seed, the slot and the op alone, so that an op is the same
    whatever else is in the pool.

    Raises:
        PoolError: the family fails to build it, or it does not map the slot's input to its output.
    """
    where = f"for slot {view.slot.name!r}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed}/{view.slot.name}/{op}".encode()))
        try:
            module: object = families.get(op.family).build(op, view)
        except Exception as error:
            raise PoolError(f"op {op} cannot be built {where}: {_said(error)}") from error
    if not isinstance(module, nn.Module):
        raise PoolError(
            f"op {op} cannot be built {where}: build() gives {_a(module)}, expected a torch.nn.Module"
        )
    module.eval()
    spec = view.input_spec.with_batch(2)
    checked_output(op, module, view, torch.zeros(spec.shape, dtype=spec.dtype))
    return module


@torch.no_grad()
def checked_output(op: OpSpec, module: nn.Module, view: SlotView, inputs: Tensor) -> Tensor:
    """What the op gives; raises PoolError where the slot asks for something else."""
    expected = view.output_spec.with_batch(len(inputs))
    try:
        output: Any = module(inputs)
    except Exception as error:
        raise PoolError(
            f"op {op} fails on the input of slot {view.slot.name!r}, {view.input_spec}: "
            f"{_said(error)}"
        ) from error
    here = f"op {op} in slot {view.slot.name!r}"
    if not isinstance(output, Tensor):
        raise PoolError(f"{here} gives {_a(output)}, expected one tensor, {view.output_spec}")
    if tuple(output.shape) != expected.shape:
        raise PoolError(f"{here} gives shape {tuple(output.shape)}, expected {expected.shape}")
    if output.dtype != expected.dtype:
        raise PoolError(f"{here} gives {output.dtype}, expected {expected.dtype}")
    return output


def check_op(op: OpSpec, module: nn.Module, view: SlotView) -> None:
    """Raises PoolError where a built op would spoil a compilation later, or its results.

    Its weights have to be its own; each sample has to be mapped by itself, the same way each time,
    for any batch; the input is left as it is; torch.fx traces it; it runs in training mode, with
    gradients where it has parameters. The module is spoiled by this.
    """
    here = f"op {op} in slot {view.slot.name!r}"
    spec = view.input_spec
    teachers = {value.data_ptr() for value in view.teacher.state_dict().values() if value.numel()}
    for name, value in module.state_dict().items():
        if value.data_ptr() in teachers:
            raise PoolError(
                f"{here} shares the weight {name!r} with the teacher, which training would change; "
                "let build() copy it, as by copy.deepcopy(view.teacher)"
            )
    first, second = (random_inputs(spec.with_batch(3), seed) for seed in range(2))
    second[0] = first[0]
    before = first.clone()
    output = checked_output(op, module, view, first).clone()
    if not torch.equal(first, before):
        raise PoolError(
            f"{here} changes its input in place, which other ops read too; let it make a new tensor"
        )
    if _apart(output, checked_output(op, module, view, first)):
        raise PoolError(
            f"{here} gives another output for the same input in eval mode; expected the same: let "
            "it draw random numbers in training mode alone (if self.training)"
        )
    for stirred in (module, _stirred(module)):
        one, other = (checked_output(op, stirred, view, x) for x in (first, second))
        if _apart(one[0], other[0]):
            raise PoolError(
                f"{here} gives another output for a sample in eval mode when the other samples of "
                "the batch change; expected each sample by itself: batch norms keep their running "
                "statistics, and means leave out dimension 0"
            )
    _check_tracing(here, module, first, output)
    _check_training(here, module, first)


def random_inputs(spec: TensorSpec, seed: int) -> Tensor:
    """Normally distributed values; zeros where the type has no fractions."""
    if not spec.dtype.is_floating_point:
        return torch.zeros(spec.shape, dtype=spec.dtype)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(spec.shape, generator=generator, dtype=spec.dtype)


@torch.no_grad()
def _stirred(module: nn.Module) -> nn.Module:
    """A copy with other weights: those that start at zero hide what they multiply."""
    stirred = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    for value in stirred.parameters():
        if value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator, dtype=value.dtype), alpha=0.1)
    return stirred


def _apart(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs differ by more than rounding; what is not finite is not compared."""
    one, other = one.double(), other.double()
    scale = one.abs().max() if one.numel() else one.new_zeros(())
    return bool((one - other).abs().max() > _APART * scale) if one.numel() else False


def _check_tracing(here: str, module: nn.Module, inputs: Tensor, expected: Tensor) -> None:
    try:
        traced: Tensor = fx.symbolic_trace(module)(inputs)
    except Exception as error:
        raise PoolError(
            f"{here} cannot be traced by torch.fx: {_said(error)}. Its forward() may not decide by "
            "the values or the sizes of its input; build() knows the sizes"
        ) from error
    if traced.shape != expected.shape or _apart(expected, traced.detach()):
        raise PoolError(f"{here} computes something else after tracing by torch.fx")


def _check_training(here: str, module: nn.Module, inputs: Tensor) -> None:
    learning = any(value.requires_grad for value in module.parameters())
    try:
        with torch.random.fork_rng(devices=[]):
            output: Tensor = module.train()(inputs)
            if learning:
                torch.autograd.backward(output.square().mean())
    except Exception as error:
        raise PoolError(f"{here} fails in training mode: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _a(value: object) -> str:
    """`a tuple`, `an OpSpec`, `None`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
