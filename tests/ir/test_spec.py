from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from lanac.ir import TensorSpec, record_specs


def test_the_parts_of_a_feature_map() -> None:
    spec = TensorSpec.of(torch.zeros(2, 3, 5, 7))
    assert spec == TensorSpec((2, 3, 5, 7), torch.float32)
    assert spec.sample_shape == (3, 5, 7)
    assert (spec.rank, spec.channels, spec.spatial) == (4, 3, (5, 7))
    assert spec.nbytes() == 2 * 3 * 5 * 7 * 4
    assert spec.with_batch(9) == TensorSpec((9, 3, 5, 7), torch.float32)


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((2, 3, 5, 7), torch.float32, "f32[N,3,5,7]"),
        ((2, 3), torch.float16, "f16[N,3]"),
        ((2,), torch.bool, "bool[N]"),
        ((2, 1), torch.complex64, "torch.complex64[N,1]"),
    ],
)
def test_the_text_leaves_the_batch_open(
    shape: tuple[int, ...], dtype: torch.dtype, text: str
) -> None:
    assert str(TensorSpec(shape, dtype)) == text


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), (torch.int64, 8)])
def test_bytes_follow_the_dtype(dtype: torch.dtype, size: int) -> None:
    assert TensorSpec((5, 2), dtype).nbytes() == 10 * size


def test_every_tensor_of_a_graph_is_recorded_and_nothing_else() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            y = self.conv(x)
            return y.flatten(1), y.size(1)

    module = fx.symbolic_trace(Net())
    x = torch.randn(2, 3, 9, 9)
    specs, outputs = record_specs(module, (x,))
    f32 = torch.float32
    assert specs == {
        "x": TensorSpec((2, 3, 9, 9), f32),
        "conv": TensorSpec((2, 4, 4, 4), f32),
        "flatten": TensorSpec((2, 64), f32),
    }
    assert outputs[1] == 4
    assert torch.equal(outputs[0], module(x)[0])
    assert not outputs[0].requires_grad
