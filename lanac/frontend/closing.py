"""Closing the borders of slots: sizes and constants that a slot would read from elsewhere.

A slot has one tensor in and one tensor out. What its nodes read beside that and does not depend on
the network's inputs (buffers and what is made of them) is computed again inside; a size is computed
from the tensor that enters, or, where it does not vary with the batch, becomes a number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx

from lanac.frontend.observing import Observation
from lanac.frontend.regions import Flow, Region
from lanac.ir import node_parameters


class Closer:
    """Rewrites a graph so that regions read nothing but their entry.

    Args:
        module: the traced graph; changed in place, without changing what it computes.
        flow: its data flow.
        seen: what was observed with the example inputs.
        see_more: observes with another batch size; asked only where a size has to be understood.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        flow: Flow,
        seen: Observation,
        see_more: Callable[[], Observation | None],
    ) -> None:
        self._module, self._flow, self._first = module, flow, seen
        self._see_more = see_more
        self._nodes = {node.name: node for node in module.graph.nodes}
        self.specs = dict(seen.specs)
        """Specs by node name, with those of the nodes that were added."""
        self.fixed_sizes: set[str] = set()
        """Nodes whose value, a size of the example, became a number in some slot."""

    @cached_property
    def _seen(self) -> list[Observation]:
        more = self._see_more()
        return [self._first] if more is None else [self._first, more]

    def close(self, region: Region) -> tuple[Region, str | None]:
        """The region with a closed border, or the reason why that is impossible."""
        inside = set(region.nodes)
        entry = self._nodes[region.entry]
        added: list[fx.Node] = []
        replaced: dict[fx.Node, Any] = {}

        def inner(source: fx.Node) -> Any:
            """What stands for `source` inside the region."""
            if source.name in inside or source is entry:
                return source
            if source not in replaced:
                replaced[source] = self._inside(source, entry, inner, added)
            return replaced[source]

        changed: list[tuple[fx.Node, Any, Any]] = []
        try:
            for name in region.nodes:
                node = self._nodes[name]
                if any(s.name not in inside and s is not entry for s in node.all_input_nodes):
                    with self._module.graph.inserting_before(node):
                        args, kwargs = fx.node.map_aggregate(
                            (node.args, node.kwargs),
                            lambda a: inner(a) if isinstance(a, fx.Node) else a,
                        )
                    changed.append((node, args, kwargs))
        except _Open as reason:
            for node in reversed(added):
                self._forget(node)
            return region, str(reason)
        for node, args, kwargs in changed:
            node.args, node.kwargs = args, kwargs
        return Region(region.entry, (*(node.name for node in added), *region.nodes)), None

    def free_readers(self, region: Region) -> None:
        """Sizes that are read off a tensor of the inside are read off the tensor that leaves."""
        exit_, inside = self._nodes[region.exit], set(region.nodes)
        stack = [user for name in region.nodes[:-1] for user in self._nodes[name].users]
        while stack:
            size = stack.pop()
            if size.name in inside or size.name not in self._first.values:
                continue
            stack += size.users
            readers = [user for user in size.users if user.name not in self._first.values]
            if readers and all(user > exit_ for user in readers):
                self._read_off(size, exit_, readers)  # else the region leaks; the caller sees it

    def _read_off(self, size: fx.Node, tensor: fx.Node, readers: Sequence[fx.Node]) -> None:
        """Lets the readers of a size have that of a tensor, where it tells."""
        added: list[fx.Node] = []
        try:
            with self._module.graph.inserting_before(tensor.next):
                value = self._size(size, tensor, added)
        except _Open:
            for node in reversed(added):
                self._forget(node)
            return
        for user in readers:
            _replace_input(user, size, value)

    def _inside(
        self,
        source: fx.Node,
        entry: fx.Node,
        inner: Callable[[fx.Node], Any],
        added: list[fx.Node],
    ) -> Any:
        if source.name in self._first.values:
            return self._size(source, entry, added)
        if source.name in self._flow:
            raise _Open(f"it also reads {source.name} from outside")
        if node_parameters(self._module, source):
            raise _Open(f"it shares the weight {source.target} with nodes outside")
        copied = self._module.graph.node_copy(source, inner)
        self._add(copied, added)
        if source.name in self.specs:
            self.specs[copied.name] = self.specs[source.name]
        return copied

    def _size(self, source: fx.Node, tensor: fx.Node, added: list[fx.Node]) -> Any:
        """A value that is no tensor, as a number or computed from a tensor."""
        values = [seen.values[source.name] for seen in self._seen]
        specs = [seen.specs[tensor.name] for seen in self._seen]
        made: dict[str, fx.Node] = {}

        def attribute(name: str) -> fx.Node:
            return self._call("call_function", getattr, (tensor, name), added)

        def batch() -> fx.Node:
            if "batch" not in made:
                made["batch"] = self._call("call_method", "size", (tensor, 0), added)
            return made["batch"]

        def express(value: Any, *others: Any) -> Any:
            if isinstance(value, tuple | list):
                items = (express(*each) for each in zip(value, *others, strict=True))
                return list(items) if isinstance(value, list) else tuple(items)
            if isinstance(value, torch.dtype) and value == specs[0].dtype:
                return attribute("dtype")
            if isinstance(value, torch.device):
                return attribute("device")
            if all(value == other for other in others):
                if not isinstance(value, int | float | str | bool | torch.dtype | None):
                    raise _Open(f"it also reads {source.name} from outside")
                if type(value) is int and value > 1:
                    self.fixed_sizes.add(source.name)
                return value
            return self._multiple_of_batch(
                [value, *others], [spec.shape[0] for spec in specs], batch, added, source
            )

        return express(*values)

    def _multiple_of_batch(
        self,
        values: Sequence[Any],
        batches: Sequence[int],
        batch: Callable[[], fx.Node],
        added: list[fx.Node],
        source: fx.Node,
    ) -> fx.Node:
        if all(type(value) is int for value in values):
            factor, divisor = values[0] // batches[0] or 1, batches[0] // (values[0] or 1) or 1
            pairs = list(zip(values, batches, strict=True))
            if all(value == size * factor for value, size in pairs):
                times = (batch(), factor)
                if factor == 1:
                    return times[0]
                return self._call("call_function", operator.mul, times, added)
            if all(value * divisor == size for value, size in pairs):
                return self._call("call_function", operator.floordiv, (batch(), divisor), added)
        raise _Open(f"it also reads {source.name} from outside, which depends on the batch size")

    def _call(self, op: str, target: Any, args: tuple[Any, ...], added: list[fx.Node]) -> fx.Node:
        node = self._module.graph.create_node(op, target, args)
        self._add(node, added)
        return node

    def _add(self, node: fx.Node, added: list[fx.Node]) -> None:
        added.append(node)
        self._nodes[node.name] = node

    def _forget(self, node: fx.Node) -> None:
        del self._nodes[node.name]
        self._module.graph.erase_node(node)


def _replace_input(user: fx.Node, old: fx.Node, new: Any) -> None:
    args, kwargs = fx.node.map_aggregate((user.args, user.kwargs), lambda a: new if a is old else a)
    user.args, user.kwargs = args, kwargs


class _Open(Exception):
    """A border that cannot be closed."""
