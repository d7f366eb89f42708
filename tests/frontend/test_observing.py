from __future__ import annotations

import torch
from torch import Tensor, nn

from lanac.frontend.tracing import trace
from lanac.ir import TensorSpec

X = torch.randn(3, 4, 6, 6)


class Sizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return (a + b).reshape(x.shape[0], -1)


def test_tensors_are_told_from_sizes_and_from_what_holds_tensors() -> None:
    seen = trace(Sizes(), (X,)).seen
    assert seen.specs["reshape"] == TensorSpec((3, 72), torch.float32)
    assert "chunk" in seen.carriers and "chunk" not in seen.specs
    assert {value for value in seen.values.values() if isinstance(value, int)} == {3}


class WritesThroughAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        half = y[:, :2]
        half.mul_(3)
        return y + 1


def test_a_write_through_a_view_is_seen_by_later_readers() -> None:
    model = WritesThroughAView()
    traced = trace(model, (X,))
    assert ("mul_", "add") in traced.seen.hidden_reads
    assert torch.equal(traced.module(X), model(X))


class Steered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.kept = nn.Conv2d(4, 4, 1), None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return self.conv(x) if float(x.sum()) > 0 else x


def test_what_needs_values_is_run_on_values() -> None:
    model = nn.Sequential(Steered())
    traced = trace(model, (X,), check=False)
    assert traced.specs["_0"] == TensorSpec((3, 4, 6, 6), torch.float32)
    assert type(model[0].kept) is Tensor


def test_the_inputs_are_not_changed() -> None:
    x = X.clone()
    trace(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)), (x,))
    assert torch.equal(x, X)
