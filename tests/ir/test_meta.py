"""Operators without values: what is known without running is what the real ones give."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lanac.ir import MetaMode
from lanac.ir.meta import _SHORTCUTS

LAYOUTS = {
    "contiguous": lambda: torch.randn(2, 4, 6, 8),
    "channels last": lambda: torch.randn(2, 4, 6, 8).to(memory_format=torch.channels_last),
    "permuted": lambda: torch.randn(2, 8, 6, 4).transpose(1, 3),
    "sliced": lambda: torch.randn(2, 4, 9, 9)[:, :, 1:7, :8],
    "expanded": lambda: torch.randn(1, 4, 6, 1).expand(2, 4, 6, 8),
    "one value": lambda: torch.randn(2, 4, 1, 1).expand(2, 4, 1, 1),
}
BATCH_NORM = [torch.ones(4), torch.zeros(4), torch.zeros(4), torch.ones(4)]

CALLS = {
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "hardtanh": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "relu": F.relu,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "batch norm": lambda x: F.batch_norm(x, *_at(x, BATCH_NORM[2:]), *_at(x, BATCH_NORM[:2])),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "layer norm of two": lambda x: F.layer_norm(x, x.shape[-2:]),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean of one": lambda x: x.mean(1),
    "mean in double": lambda x: x.mean(-1, dtype=torch.float64),
    "linear": lambda x: F.linear(
        x.flatten(0, 2), torch.ones(5, x.shape[-1], device=x.device), torch.ones(5, device=x.device)
    ),
    "plus a number": lambda x: x + 1,
    "number minus": lambda x: 1 - x,
    "times itself": lambda x: x * x,
    "gated": lambda x: x * x.mean((2, 3), keepdim=True),
    "gate first": lambda x: x.mean((2, 3), keepdim=True) * x,
    "plus its turn": lambda x: x + x.flip(1),
    "plus a row": lambda x: x + torch.ones(x.shape[-1], device=x.device),
    "minus contiguous": lambda x: x - x.contiguous(),
    "plus a column of more": lambda x: x[:1] + x[..., :1],
    "plus double": lambda x: x + x.double(),
    "times integers": lambda x: x * x.int(),
    "integers": lambda x: x.int() + 1,
    "times complex": lambda x: x * 1j,
}


def _at(x, values):
    return [value.to(x.device) for value in values]


@pytest.mark.parametrize(("layout", "call"), product(LAYOUTS, CALLS))
def test_shapes_strides_and_types_are_those_of_real_values(layout, call):
    real = LAYOUTS[layout]()
    expected = CALLS[call](real)
    outline = torch.empty_strided(real.shape, real.stride(), device="meta")
    with MetaMode():
        found = CALLS[call](outline)
    assert found.device.type == "meta"
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    # A stride says nothing where there is one value.
    assert [s for s, size in zip(found.stride(), found.shape, strict=True) if size > 1] == [
        s for s, size in zip(expected.stride(), expected.shape, strict=True) if size > 1
    ]


def test_every_shortcut_is_among_the_calls():
    seen = set()

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func)
            return func(*args, **(kwargs or {}))

    with Noted():
        for call in CALLS.values():
            call(torch.empty(2, 4, 6, 8, device="meta"))
    assert set(_SHORTCUTS) <= seen


def test_training_keeps_the_statistics_of_the_batch():
    x = torch.empty(2, 4, 6, 8, device="meta")
    with MetaMode():
        _, mean, scale = torch.ops.aten.native_batch_norm(
            x, None, None, None, None, True, 0.1, 1e-5
        )
    assert mean.shape == scale.shape == (4,)
