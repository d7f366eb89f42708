from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import record_specs
from lanac.ops.channels import Channels
from lanac.ops.linear_maps import (
    input_rows,
    linear_maps,
    matrix_of,
    output_rows,
    run_graph,
    set_matrix,
)


def assert_rows_times_matrix(layer: Any, x: Tensor) -> None:
    with torch.no_grad():
        y = layer(x)
    shape = tuple(y.movedim(1 if y.dim() == 4 else -1, -1).shape[:-1])
    places = torch.randperm(torch.Size(shape).numel())[:50]
    product = input_rows(layer, x, shape, places).double() @ matrix_of(layer)
    product = product.transpose(0, 1).flatten(1).float()
    bias = layer.bias if layer.bias is not None else 0
    assert torch.allclose(product + bias, output_rows(layer, y, places), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
)
def test_a_convolution_is_rows_times_a_matrix(
    kernel: Any, stride: Any, dilation: Any, padding: Any, groups: int, bias: bool
) -> None:
    layer = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias)
    assert_rows_times_matrix(layer, torch.randn(2, 4, 9, 10))


@pytest.mark.parametrize("kernel", [2, 3, (3, 4)])
def test_padding_by_name(kernel: Any) -> None:
    assert_rows_times_matrix(nn.Conv2d(3, 5, kernel, padding="same"), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (8, 2), (8, 1)])
def test_padding_that_depends_on_the_size(size: int, stride: int) -> None:
    from timm.layers import Conv2dSame

    assert_rows_times_matrix(Conv2dSame(3, 5, 5, stride), torch.randn(2, 3, size, size + 1))


@pytest.mark.parametrize("shape", [(9, 6), (2, 5, 6), (2, 3, 4, 6)])
def test_a_linear_layer_is_rows_times_a_matrix(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(6, 4)
    y = layer(torch.randn(shape))
    x = torch.randn(shape)
    with torch.no_grad():
        y = layer(x)
    places = torch.arange(y[..., 0].numel())
    product = input_rows(layer, x, y.shape[:-1], places)[0].double() @ matrix_of(layer)[0]
    assert torch.allclose(product.float() + layer.bias, output_rows(layer, y, places), atol=1e-6)


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3, groups=2)]
)
def test_a_matrix_that_is_written_is_the_one_that_is_read(layer: Any) -> None:
    matrix = torch.randn(matrix_of(layer).shape).double()
    set_matrix(layer, matrix)
    assert torch.equal(matrix_of(layer), matrix.float().double())


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Linear(4, 4), nn.Linear(4, 4)
        self.mirrored = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu_()
        return self.twice(self.once(self.twice(x)))


def test_layers_that_are_called_twice_cannot_be_set() -> None:
    assert [str(node.target) for node, _ in linear_maps(fx.symbolic_trace(Odd()))] == ["once"]
    reflecting = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"))
    assert list(linear_maps(fx.symbolic_trace(reflecting))) == []


def test_a_graph_runs_node_by_node_and_keeps_its_input() -> None:
    module = fx.symbolic_trace(Odd())
    x = torch.randn(3, 4)
    before = x.clone()
    seen: list[str] = []
    with torch.no_grad():
        y = run_graph(module, x, lambda n, v: None, lambda n, v: seen.append(n.name))
        assert torch.equal(x, before)
        assert torch.equal(y, module(x.clone()))
    assert seen == ["relu_", "twice", "once", "twice_1"]


class Standardised(nn.Conv2d):
    """A convolution that does something else with its weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)


def test_layers_with_code_of_their_own_are_left_alone() -> None:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, nn.Conv2d)

    model = nn.Sequential(Standardised(3, 16, 1), nn.Conv2d(16, 3, 1))
    graph = fx.GraphModule(model, Tracer().trace(model))
    assert [str(node.target) for node, _ in linear_maps(graph)] == ["1"]
    channels = Channels.of(graph, record_specs(graph, (torch.zeros(2, 3, 4, 4),))[0])
    assert channels.groups == ()
