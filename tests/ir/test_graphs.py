from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.ir import function_name, is_in_place, read_attribute, run_node


def node_of(function: object) -> tuple[fx.GraphModule, fx.Node]:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return function(self, x)  # type: ignore[operator]

    graph = fx.symbolic_trace(Net())
    return graph, list(graph.graph.nodes)[-2]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda net, x: x.add_(1), True),
        (lambda net, x: x.add(1), False),
        (lambda net, x: torch.relu_(x), True),
        (lambda net, x: F.relu(x, inplace=True), True),
        (lambda net, x: F.relu(x), False),
        (lambda net, x: net.act(x), True),
    ],
)
def test_writes_are_known(function: object, expected: bool) -> None:
    assert is_in_place(*node_of(function)) is expected


def test_functions_methods_and_operators_have_one_name() -> None:
    assert function_name(node_of(lambda net, x: x.add(1))[1]) == "add"
    assert function_name(node_of(lambda net, x: torch.add(x, 1))[1]) == "add"
    assert function_name(node_of(lambda net, x: x + 1)[1]) == "add"
    assert function_name(node_of(lambda net, x: torch.ops.aten.add.Tensor(x, 1))[1]) == "add"
    assert function_name(node_of(lambda net, x: net.act(x))[1]) == ""


def test_an_operator_of_aten_that_writes() -> None:
    assert is_in_place(*node_of(lambda net, x: torch.ops.aten.add_.Tensor(x, 1)))


def test_attributes_are_read_by_path() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3)))
    assert read_attribute(net, "0.0.weight") is net[0][0].weight
    assert read_attribute(net, "0") is net[0]


def test_nodes_of_every_kind_run() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x) * self.scale).sum(dim=1)

    net = Net()
    graph = fx.symbolic_trace(net)
    x = torch.randn(3, 2)
    values: dict[fx.Node, object] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op != "output":
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            keywords = fx.node.map_arg(node.kwargs, values.__getitem__)
            values[node] = last = run_node(graph, node, arguments, keywords)
    assert torch.equal(last, net(x))
