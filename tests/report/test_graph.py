from __future__ import annotations

import torch
from torch import Tensor, nn

import lanac
from lanac.frontend.tracing import trace
from lanac.ir import Program
from lanac.report.graph import Edge, graph_of


def test_boxes_and_edges(forked: lanac.Inspection) -> None:
    boxes, edges = graph_of(forked.program)
    assert [(box.kind, box.title) for box in boxes] == [
        ("input", "x"),
        ("conv", "stem"),
        ("conv", "down"),
        ("conv", "up.0"),
        ("left out", "up.1, cat"),
        ("conv", "last"),
        ("left out", "sigmoid"),
        ("output", "output"),
    ]
    assert edges == [
        Edge(0, 1, "3x8x8"),
        Edge(1, 2, "4x4x4"),
        Edge(1, 4, "4x4x4"),
        Edge(2, 3, "8x2x2"),
        Edge(3, 4, "4x2x2"),
        Edge(4, 5, "8x4x4"),
        Edge(5, 6, "2x4x4"),
        Edge(6, 7, "2x4x4"),
    ]


def test_edges_lead_down_and_every_node_is_in_one_box(forked: lanac.Inspection) -> None:
    boxes, edges = graph_of(forked.program)
    assert all(edge.source < edge.target for edge in edges)
    names = [name for box in boxes for name in box.nodes]
    assert sorted(names) == sorted(forked.program.nodes)


def test_shapes_are_not_drawn_and_tuples_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.layer(x).chunk(2, 1)
            return self.other((first * second).view(x.size(0), 3))

    traced = trace(Net(), (torch.randn(2, 4),))
    boxes, _ = graph_of(Program(traced.module, (), traced.specs))
    names = {name for box in boxes for name in box.nodes}
    assert "chunk" in names
    assert "size" not in names
