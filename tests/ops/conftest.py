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


Slotted = tuple[nn.Module, tuple[int, ...]]


def _map(inputs: int, outputs: int, stride: int, *size: int) -> Slotted:
    return nn.Conv2d(inputs, outputs, 3, stride, 1), (inputs, *size)


SLOTS: dict[str, Slotted] = {
    "map 7": _map(8, 8, 1, 7, 7),
    "map 14x9": _map(8, 8, 1, 14, 9),
    "map wider": _map(6, 10, 1, 10, 10),
    "map narrower": _map(16, 8, 1, 8, 8),
    "map ending in relu": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), (8, 6, 6)),
    "map halved": _map(8, 12, 2, 14, 14),
    "map halved from odd": _map(8, 8, 2, 13, 7),
    "map quartered": _map(4, 8, 4, 29, 18),
    "map of one pixel": _map(8, 8, 1, 1, 1),
    "map of 1122 pixels": _map(4, 4, 1, 33, 34),
    "map halved to 1122 pixels": _map(4, 6, 2, 67, 66),
    "map 112": _map(8, 8, 1, 112, 112),
    "map 112 halved": _map(4, 8, 2, 112, 112),
    "tokens": (nn.Linear(12, 12), (16, 12)),
    "tokens with a class token": (nn.LayerNorm(12), (50, 12)),
    "tokens wider": (nn.Linear(12, 20), (9, 12)),
    "map with channels last": (nn.LayerNorm(12), (14, 9, 12)),
    "map with channels last wider": (nn.Linear(12, 16), (33, 34, 12)),
}
"""Slots of all kinds by name: the slot's own op, and the shape of a sample."""


@pytest.fixture(scope="session", params=SLOTS)
def slot(request: pytest.FixtureRequest) -> SlotView:
    """Each of the slots in turn."""
    module, shape = SLOTS[request.param]
    return view_of(module, torch.zeros(2, *shape))
