from __future__ import annotations

import networkx as nx
import torch
from hypothesis import given
from hypothesis import strategies as st

from lanac.ops.unions import FIXED, Unions


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_roots_are_the_smallest_of_what_is_connected(pairs: list[tuple[int, int]]) -> None:
    unions, graph = Unions(), nx.Graph()
    numbers = torch.cat([torch.tensor([FIXED]), unions.new(4, 5).flatten()])
    graph.add_nodes_from(range(21))
    for pair in pairs:
        unions.unite(torch.tensor([pair[0]]), torch.tensor(pair[1]))
        graph.add_edge(*pair)
    expected = {node: min(part) for part in nx.connected_components(graph) for node in part}
    assert unions.roots(numbers).tolist() == [expected[node] for node in range(21)]


def test_many_are_united_at_once() -> None:
    unions = Unions()
    numbers = unions.new(3, 4)
    unions.unite(numbers, numbers[:, :1])
    assert unions.roots(numbers).tolist() == [[1] * 4, [5] * 4, [9] * 4]
    unions.unite(numbers[:2], numbers[1:])
    assert unions.roots(numbers).unique().tolist() == [1]
    later = unions.new(2)
    unions.fix(numbers[2, 3])
    assert unions.roots(numbers).unique().tolist() == [FIXED]
    assert unions.roots(later).tolist() == [13, 14]
