"""Pieces that convolutional families share."""

from __future__ import annotations

from torch import Tensor, nn


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


def aligned(channels: float, multiple: int = 8) -> int:
    """The nearest multiple that runtimes compute without padding, at least one."""
    return max(multiple, round(channels / multiple) * multiple)


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
