from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.ir import TensorSpec, signature

SPEC = TensorSpec((1, 3, 8, 8), torch.float32)


class Scaled(nn.Module):
    def __init__(self, size: int = 1, factor: float = 2.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size, 1, 1))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * self.factor


def test_weights_and_names_do_not_count() -> None:
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    other = nn.Sequential()
    other.first, other.second = nn.Conv2d(3, 4, 3), nn.ReLU()
    assert signature(one, SPEC) == signature(other, SPEC)
    assert signature(one, SPEC) == signature(fx.symbolic_trace(one), SPEC)


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)),
    ],
    ids=["stride", "width", "bias", "activation", "shorter", "order"],
)
def test_other_work_has_another_signature(other: nn.Module) -> None:
    assert signature(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), SPEC) != signature(other, SPEC)


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (2, 3, 8, 8)], ids=["size", "batch"])
def test_other_shapes_have_another_signature(shape: tuple[int, ...]) -> None:
    module = nn.Conv2d(3, 4, 3)
    assert signature(module, SPEC) != signature(module, TensorSpec(shape, torch.float32))


def test_free_weights_count_by_their_shape_and_constants_by_their_value() -> None:
    assert signature(Scaled(), SPEC) == signature(Scaled(), SPEC)
    assert signature(Scaled(3), SPEC) != signature(Scaled(), SPEC)
    assert signature(Scaled(factor=3.0), SPEC) != signature(Scaled(), SPEC)


def test_the_same_nodes_in_another_order_of_arguments() -> None:
    class Difference(nn.Module):
        def __init__(self, swapped: bool) -> None:
            super().__init__()
            self.swapped = swapped

        def forward(self, x: Tensor) -> Tensor:
            a, b = x.relu(), x.sigmoid()
            return b - a if self.swapped else a - b

    assert signature(Difference(False), SPEC) != signature(Difference(True), SPEC)


def test_functions_that_are_not_torchs_count_by_their_source() -> None:
    def called(function: Callable[[Tensor], Tensor]) -> fx.GraphModule:
        graph = fx.Graph()
        graph.output(graph.call_function(function, (graph.placeholder("x"),)))
        return fx.GraphModule({}, graph)

    def scaled(x: Tensor) -> Tensor:
        return 2 * x

    one = scaled

    def scaled(x: Tensor) -> Tensor:  # type: ignore[no-redef]
        return 3 * x

    assert one.__qualname__ == scaled.__qualname__
    assert signature(called(one), SPEC) == signature(called(one), SPEC)
    assert signature(called(one), SPEC) != signature(called(scaled), SPEC)
    assert "return 3 * x" in signature(called(scaled), SPEC)
    assert "relu" in signature(called(torch.relu), SPEC)
