"""Regions: parts of a graph with one tensor in and one tensor out, found by dominators.

A region ends at a tensor; it begins behind the nearest tensor through which everything that it is
made of flows, and nobody outside reads what is inside. Regions are nested or disjoint. Those that
are in no other one are the chain of cuts of a network; long skips (U-Net, necks of detectors) put
most of a network into one region, and the regions inside it are looked at then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from torch import fx

_ENTRY, _EXIT = "<entry>", "<exit>"


@dataclass(frozen=True)
class Region:
    """Nodes with one entry and one exit.

    Attributes:
        entry: name of the node that feeds the region.
        nodes: names of its nodes in graph order; the last is its exit.
    """

    entry: str
    nodes: tuple[str, ...]

    @property
    def exit(self) -> str:
        return self.nodes[-1]


class Flow:
    """The data flow of a graph: who is made of whom.

    Only nodes that carry tensors count: edges that carry sizes would hold a network together. What
    does not depend on the network's inputs (weights, constants) does not count either.

    Args:
        graph: the traced graph.
        tensors: names of the nodes whose value is one tensor.
        carriers: names of the nodes whose value is or holds a tensor.
        hidden_reads: pairs (writer, reader) of nodes that share memory without an edge.
    """

    def __init__(
        self,
        graph: fx.Graph,
        tensors: Iterable[str],
        carriers: Iterable[str],
        hidden_reads: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._tensors = set(tensors)
        self.place = {node.name: place for place, node in enumerate(graph.nodes)}
        self._graph = _flow_graph(graph, set(carriers), hidden_reads)

    def __contains__(self, name: object) -> bool:
        """Whether a node is made of the network's inputs and part of its outputs."""
        return name in self._graph

    def readers(self, name: str) -> list[str]:
        """The nodes that a node flows into."""
        return list(self._graph.successors(name))

    def sources(self, name: str) -> list[str]:
        """The nodes that flow into a node."""
        return list(self._graph.predecessors(name))

    @cached_property
    def regions(self) -> Mapping[str, Region]:
        """The smallest region that ends at each node, by name of that node."""
        if _EXIT not in self._graph:
            return {}
        dominators: dict[str, str | None] = dict(nx.immediate_dominators(self._graph, _ENTRY))
        found = {}
        for name in sorted(self._tensors & set(self._graph), key=self.place.__getitem__):
            entry = dominators[name]
            while entry != _ENTRY and entry is not None and entry not in self._tensors:
                entry = dominators[entry]
            region = self._between(entry, name) if entry not in (None, _ENTRY, name) else None
            if region is not None:
                found[name] = region
        return found

    def _between(self, entry: str | None, exit_: str) -> Region | None:
        """The nodes between a node and one that it dominates; None where one of them leaks."""
        assert entry is not None
        inside, stack = {exit_}, [exit_]
        while stack:
            for source in self._graph.predecessors(stack.pop()):
                if source != entry and source not in inside:
                    inside.add(source)
                    stack.append(source)
        for name in inside - {exit_}:
            if any(reader not in inside for reader in self._graph.successors(name)):
                return None
        return Region(entry, tuple(sorted(inside, key=self.place.__getitem__)))

    def outermost(self, within: Region | None = None) -> list[Region]:
        """The regions that are in no other one, of the graph or strictly within a region."""
        names = self.regions if within is None else set(within.nodes) - {within.exit}
        taken: set[str] = set()
        found = []
        candidates = [self.regions[name] for name in names if name in self.regions]
        for region in sorted(candidates, key=lambda region: -len(region.nodes)):
            if taken.isdisjoint(region.nodes):
                taken.update(region.nodes)
                found.append(region)
        return sorted(found, key=lambda region: self.place[region.exit])

    def chains(self, regions: Iterable[Region]) -> list[list[Region]]:
        """Regions that follow each other with nobody else reading what lies between them."""
        follower: dict[str, Region] = {}
        for region in regions:
            if set(self._graph.successors(region.entry)) <= set(region.nodes):
                follower[region.entry] = region
        begun = {following.nodes for following in follower.values()}
        exits = {region.exit for region in regions}
        chains = []
        for region in regions:
            if region.nodes in begun and region.entry in exits:
                continue  # it follows another one
            chain = [region]
            while chain[-1].exit in follower:
                chain.append(follower[chain[-1].exit])
            chains.append(chain)
        return chains


def _flow_graph(
    graph: fx.Graph, carriers: set[str], hidden_reads: Iterable[tuple[str, str]]
) -> nx.DiGraph[str]:
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_node(_ENTRY)
    for node in graph.nodes:
        if node.op == "placeholder":
            flow.add_edge(_ENTRY, node.name)
        for source in node.all_input_nodes:
            if source.name in carriers and (node.op == "output" or node.name in carriers):
                flow.add_edge(source.name, _EXIT if node.op == "output" else node.name)
    flow.add_edges_from(hidden_reads)
    if _EXIT not in flow:
        return flow.subgraph([_ENTRY]).copy()
    fed = nx.descendants(flow, _ENTRY) | {_ENTRY}
    return flow.subgraph(fed & (nx.ancestors(flow, _EXIT) | {_EXIT})).copy()
