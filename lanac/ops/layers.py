"""Pieces that convolutional families share."""

from __future__ import annotations

from torch import Tensor, nn

from lanac.ops.base import Counts

WIDTHS = (0.0625, 0.1, 0.125, 0.2, 0.25, 0.5, 1, 2, 3, 4)
"""Inner widths of the dense families, in shares of the input channels (paper, section 3)."""


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias and batch norm: (B, in, H, W) -> (B, out, H/stride, W/stride)."""
    return [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    ]


def share(channels: int, width: float) -> int:
    """A share of the channels, at least one."""
    return max(1, round(channels * width))


def aligned(channels: float, multiple: int = 8) -> int:
    """The nearest multiple that runtimes compute without padding, at least one."""
    return max(multiple, round(channels / multiple) * multiple)


class SqueezeExcite(nn.Module):
    """Channel gate: (B, C, H, W) -> the same, each channel times a number between 0 and 1."""

    @staticmethod
    def counts(channels: int, squeezed: int) -> Counts:
        """What the gate costs: its two layers see one value per channel."""
        weights = 2 * channels * squeezed
        return Counts(weights + squeezed + channels, 2 * weights)

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(pooled))))
        return x * gate


class Residual(nn.Module):
    """y = act(body(x) + x), the sum only where shapes agree, ReLU only where the teacher has it."""

    def __init__(self, body: nn.Sequential, *, skip: bool, relu: bool) -> None:
        super().__init__()
        self.body = body
        self.skip = skip
        self.act: nn.Module | None = nn.ReLU() if relu else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if self.skip:
            y = y + x
        if self.act is not None:
            y = self.act(y)
        return y
