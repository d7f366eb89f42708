"""What is known of a tensor before it exists."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SHORT = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float64: "f64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor; the first dimension is the batch and may vary.

    Attributes:
        shape: the shape seen with the example inputs, batch included.
        dtype: element type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the batch."""
        return self.shape[1:]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        """Size of the channel dimension: the second one."""
        return self.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """The dimensions behind batch and channels."""
        return self.shape[2:]

    def with_batch(self, batch: int) -> TensorSpec:
        return TensorSpec((batch, *self.sample_shape), self.dtype)

    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        dims = ",".join(["N", *map(str, self.sample_shape)])
        return f"{_SHORT.get(self.dtype, str(self.dtype))}[{dims}]"
