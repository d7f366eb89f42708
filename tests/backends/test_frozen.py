"""Modules that torch.fx cannot trace in emitted source."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends.pytorch import write_source
from lanac.errors import BackendError

Check = Callable[..., str]


class Assigning(nn.Module):
    """Assigns to items, takes and gives nested values, makes tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(
        self, x: Tensor, size: tuple[int, int], scale: float = 1.0
    ) -> tuple[Tensor, list[int]]:
        y = self.layer(x).clone()
        y[:, :1] = y[:, 1:2] * scale
        return self.drop(y) + torch.arange(4), [size[0], size[1] + 1]


class Holding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Assigning()

    def forward(self, x: Tensor) -> Tensor:
        y, size = self.part(x, (2, 3), scale=2.0)
        return y * size[1]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Opaque(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Assigning | Branching)


def opaque(module: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(module, Opaque().trace(module)).eval()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_module_is_frozen_with_a_free_batch(check: Check, batch: int) -> None:
    inputs = [torch.randn(size, 4) for size in (batch, 2, 5)]
    text = check(opaque(Holding()), *inputs)
    assert (
        '''class Assigning(nn.Module):
    """Operators recorded by torch.export: it does in training what it does in evaluation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((4, 4)))
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x, size, scale):
        y = x.device
'''
        in text
    )
    assert "torch.ops.aten.linear.default(x, self.weight, self.bias)" in text
    assert 'torch.device("' not in text
    assert "_assert" not in text


def test_without_example_inputs_the_module_is_named() -> None:
    with pytest.raises(BackendError, match=r"^cannot write module 'part' \(.*Assigning\)"):
        write_source(opaque(Holding()))


def test_what_neither_can_trace_is_named() -> None:
    net = nn.Sequential(Branching())
    with pytest.raises(BackendError) as caught:
        write_source(opaque(net), (torch.randn(2, 4),))
    assert str(caught.value).startswith(
        f"cannot write module '0' ({__name__}.Branching) as PyTorch source: torch.fx cannot trace "
        "it, and torch.export cannot either: "
    )
    assert str(caught.value).endswith(
        "Replace it by modules of torch.nn, or emit ONNX only (--emit onnx)."
    )
