from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.targets import count_flops, count_params, peak_activation_bytes


def test_params_of_a_convolution_by_hand() -> None:
    assert count_params(nn.Conv2d(3, 8, 5)) == 3 * 8 * 25 + 8
    assert count_params(nn.Conv2d(8, 8, 3, groups=8, bias=False)) == 8 * 9
    assert count_params(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())) == 8  # no running statistics


def test_shared_params_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert count_params(nn.Sequential(layer, nn.ReLU(), layer)) == 12


@pytest.mark.parametrize(
    ("module", "flops"),
    [
        (nn.Conv2d(3, 8, 5, padding=2, bias=False), 2 * 3 * 8 * 25 * 36),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 2 * 3 * 8 * 9 * 9),
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), 2 * 3 * 9 * 36),
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 10)), 2 * 108 * 10),
        (nn.ReLU(), 0),
    ],
)
def test_flops_by_hand(module: nn.Module, flops: int) -> None:
    assert count_flops(module, (torch.zeros(1, 3, 6, 6),)) == flops
    assert count_flops(module, (torch.zeros(5, 3, 6, 6),)) == 5 * flops


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_flops_of_attention_by_hand() -> None:
    """Fused kernels count too: queries by keys, and weights by values."""
    assert count_flops(Attention(), (torch.zeros(1, 3, 10, 4),)) == 2 * (2 * 3 * 10 * 10 * 4)
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = torch.zeros(1, 10, 8)
    projections = 2 * 10 * 8 * (3 * 8 + 8)
    assert count_flops(layer, (tokens, tokens, tokens)) == projections + 2 * (2 * 10 * 10 * 8)


def test_peak_memory_of_a_chain_is_its_largest_pair_of_neighbours() -> None:
    chain = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 1, 1)
    )
    # floats of 4x4: 16, 32, 32, 128, 32 (2x2), 4; neighbours: 48, 64, 160, 160, 36
    assert peak_activation_bytes(chain, (torch.zeros(1, 1, 4, 4),)) == 4 * 160
    assert peak_activation_bytes(chain, (torch.zeros(3, 1, 4, 4),)) == 3 * 4 * 160


def test_a_skip_stays_alive_until_it_is_added() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(self.a(x))

    # x (16) with a (64) and b (16) alive at once
    assert peak_activation_bytes(Residual(), (torch.zeros(1, 1, 4, 4),)) == 4 * 96


def test_what_shares_memory_counts_once() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1).unsqueeze(0).relu_()

    assert peak_activation_bytes(Views(), (torch.zeros(2, 8),)) == 4 * 16


def test_nested_graphs_are_measured_inside() -> None:
    chain = nn.Sequential(nn.Conv2d(1, 9, 1), nn.Conv2d(9, 1, 1))
    nested = nn.Sequential(torch.fx.symbolic_trace(chain))
    x = torch.zeros(1, 1, 4, 4)
    assert peak_activation_bytes(nested, (x,)) == peak_activation_bytes(chain, (x,)) == 4 * 160


@dataclass
class Found:
    wide: Any
    narrow: Any

    def __post_init__(self) -> None:
        if self.narrow.sum() < 0:  # cannot be traced
            raise ValueError


def test_outputs_of_a_class_stay_alive_to_the_end() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    wide = graph.call_module("wide", (x,))
    narrow = graph.call_module("narrow", (wide,))
    graph.output({"found": graph.call_function(Found, (), {"wide": wide, "narrow": narrow})})
    modules = {
        "wide": nn.Conv2d(1, 9, 1),
        "narrow": fx.symbolic_trace(nn.Sequential(nn.Conv2d(9, 2, 1))),
    }
    modules["narrow"].get_submodule("0").bias.data.fill_(100)
    module = fx.GraphModule(modules, graph)
    inputs = (torch.zeros(1, 1, 4, 4),)
    # 16 with 144, then 144 with 32
    assert peak_activation_bytes(module, inputs) == 4 * 176
    assert count_flops(module, inputs) == 2 * 16 * (9 + 18)


def test_what_cannot_be_traced_is_one_step() -> None:
    class Padding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x]) if x.shape[2] % 2 else x * 2 * 2

    graph = fx.Graph()
    graph.output(graph.call_module("padding", (graph.placeholder("x"),)))
    inner = fx.GraphModule({"padding": Padding()}, graph)
    module = nn.Sequential(nn.Conv2d(1, 1, 1), inner)
    # 9 with 18 inside; the tensors of x * 2 * 2 are the module's own affair
    assert peak_activation_bytes(module, (torch.zeros(1, 1, 3, 3),)) == 4 * 27
    assert peak_activation_bytes(module, (torch.zeros(1, 1, 4, 4),)) == 4 * 32
