"""What can be said of the outputs before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lanac import run_passes
from lanac.passes import CheckOutputs
from lanac.passes.check_outputs import exceeds


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(2, 2)
        with torch.no_grad():
            self.wide.weight.fill_(5e4)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x.relu()) * 1e-5


def test_the_first_that_exceeds_the_range_is_found() -> None:
    network = fx.symbolic_trace(Large()).eval()
    found = exceeds(network, (torch.ones(1, 2),), 65504)
    assert found is not None
    assert found == ("wide", pytest.approx(1e5, rel=1e-3))
    assert exceeds(network, (torch.zeros(1, 2),), 65504) is None


@pytest.mark.parametrize(
    ("backends", "target", "is_said"),
    [
        (("onnx_fp16",), "cpu", True),
        (("onnx", "tensorrt"), "v100", True),
        (("onnx", "onnx_bf16"), "cpu", False),
        (("onnx", "tensorrt"), "v100:fp32", False),
    ],
)
def test_a_teacher_beyond_fp16_is_said_before_training(
    start: Any, backends: tuple[str, ...], target: str, is_said: bool
) -> None:
    compilation = start("flops=0.6x", "skip", target=target)
    with torch.no_grad():
        next(compilation.program.teacher.parameters()).mul_(1e8)
    run_passes(compilation, [CheckOutputs(backends)])
    warned = compilation.instruments.warned
    assert bool(warned) == is_said
    if is_said:
        assert warned[0].startswith(
            f"the teacher exceeds the range of fp16, in which {backends[-1]} compute: 'stem"
        )
        assert warned[0].endswith(
            "the largest value is 65,504. A student that does so too is refused at the end; bf16 and "
            "fp32 have no such limit"
        )
