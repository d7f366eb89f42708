"""Building an op for a slot, reproducibly."""

from __future__ import annotations

import zlib

import torch
from torch import nn

from lanac.errors import PoolError
from lanac.ir import OpSpec
from lanac.ops.base import FAMILIES, SlotView


def build_op(op: OpSpec, view: SlotView, seed: int) -> nn.Module:
    """The op as a module in eval mode, on the CPU.

    Its random weights follow from the seed, the slot and the op alone, so that an op is the same
    whatever else is in the pool.

    Raises:
        PoolError: the family fails to build it, or it does not map the slot's input to its output.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed}/{view.slot.name}/{op}".encode()))
        try:
            module = FAMILIES.get(op.family).build(op, view).eval()
        except Exception as error:
            raise PoolError(
                f"op {op} cannot be built for slot {view.slot.name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
    _check_output(op, module, view)
    return module


@torch.no_grad()
def _check_output(op: OpSpec, module: nn.Module, view: SlotView) -> None:
    spec = view.input_spec.with_batch(2)
    expected = view.output_spec.with_batch(2).shape
    try:
        actual = tuple(module(torch.zeros(spec.shape, dtype=spec.dtype)).shape)
    except Exception as error:
        raise PoolError(
            f"op {op} fails on the input of slot {view.slot.name!r}, {view.input_spec}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if actual != expected:
        raise PoolError(
            f"op {op} in slot {view.slot.name!r} gives shape {actual}, expected {expected}"
        )
