from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lanac
from lanac.report.describe import dimensions, kind_of, layers_of

Seen = list[tuple[str, str]]


def seen(model: nn.Module, *shape: int) -> Seen:
    """Kind and layers of every slot."""
    found = lanac.inspect(model, example_inputs=torch.randn(2, *shape), latency=False)
    program = found.program
    return [(kind_of(program, s.nodes), layers_of(program, s.nodes)) for s in program.slots]


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def conv(before: int, after: int, size: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, padding=size // 2, **options)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Sequential(conv(3, 8, 3, stride=2), nn.ReLU()), (3, 8, 8), ("conv", "conv 3x3 /2")),
        (
            Residual(nn.Sequential(conv(8, 8, 3), nn.ReLU(), conv(8, 8, 3))), (8, 4, 4),
            ("conv", "conv 3x3 x2 + skip"),
        ),
        (
            Residual(nn.Sequential(conv(8, 8, 3, groups=8), Gate(), conv(8, 8, 1))), (8, 4, 4),
            ("conv", "dw 3x3, se, conv 1x1 + skip"),
        ),
        (
            Residual(nn.Sequential(conv(8, 8, 3, groups=2), nn.ConvTranspose2d(8, 8, 3, padding=1))),
            (8, 4, 4), ("conv", "grouped 3x3, transposed 3x3 + skip"),
        ),
        (Residual(Attention()), (5, 8), ("attention", "linear 24, attention, linear 8 + skip")),
        (
            Residual(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))), (5, 8),
            ("mlp", "linear 16, linear 8 + skip"),
        ),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), (8, 4, 4),
            ("head", "linear 3"),
        ),
    ],
)  # fmt: skip
def test_kind_and_layers(
    model: nn.Module, shape: tuple[int, ...], expected: tuple[str, str]
) -> None:
    assert seen(model, *shape) == [expected]


def test_dimensions() -> None:
    from lanac.ir import TensorSpec

    assert dimensions(TensorSpec((2, 3, 8, 8), torch.float32)) == "3x8x8"
    assert dimensions(TensorSpec((2,), torch.float32)) == "scalar"
