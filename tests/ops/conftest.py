"""Slots for the tests of the op families."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.ir import Slot, TensorSpec, record_specs
from lanac.ops import SlotView

MakeView = Callable[..., SlotView]


def view_of(module: nn.Module, x: Tensor, calibration: Tensor | None = None) -> SlotView:
    """A slot whose own op is `module`, fed with tensors like `x`."""
    teacher = fx.symbolic_trace(module.eval()).eval()
    _, output = record_specs(teacher, (x,))
    nodes = [node.name for node in teacher.graph.nodes]
    slot = Slot("a.slot", tuple(nodes[1:-1]), nodes[0], TensorSpec.of(x), TensorSpec.of(output))
    return SlotView(slot, teacher, calibration)


@pytest.fixture(scope="session")
def make_view() -> MakeView:
    return view_of


@pytest.fixture(scope="session", autouse=True)
def one_seed() -> None:
    torch.manual_seed(0)
