"""Channel groups inside a slot: which channels can be removed together, and by whom they are used.

The graph is walked once. A tensor's channels (dimension 1) belong to a group; operations that work
channel by channel pass the group on, sums and products unite groups, dense layers start a new one.
Groups that reach the slot's entry or exit, or an operation that is not known here, are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from lanac.ir import TensorSpec

_PER_CHANNEL_MODULES = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Mish, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.Dropout, nn.Dropout2d, nn.Identity, nn.AvgPool2d, nn.MaxPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
)  # fmt: skip
_PER_CHANNEL_FUNCTIONS = {
    "relu", "relu_", "relu6", "silu", "gelu", "elu", "leaky_relu", "hardswish", "sigmoid",
    "hardsigmoid", "tanh", "mish", "dropout", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "boolean_dispatch", "contiguous", "add", "iadd", "add_", "sub", "mul", "imul", "mul_", "truediv",
}  # fmt: skip


@dataclass
class ChannelGroup:
    """Channels that stand or fall together.

    Attributes:
        size: number of channels.
        fixed: reason why the number must stay, None where it is free.
        producers: paths of dense layers whose outputs these channels are.
        followers: paths of layers that work channel by channel with weights.
        consumers: path of a dense layer that reads these channels, and the node that feeds it.
    """

    size: int
    fixed: str | None = None
    producers: list[str] = field(default_factory=list)
    followers: list[str] = field(default_factory=list)
    consumers: list[tuple[str, str]] = field(default_factory=list)

    def absorb(self, other: ChannelGroup) -> None:
        self.fixed = self.fixed or other.fixed
        self.producers += other.producers
        self.followers += other.followers
        self.consumers += other.consumers


def find_channel_groups(module: fx.GraphModule, specs: dict[str, TensorSpec]) -> list[ChannelGroup]:
    """The free channel groups of a module with one input and one output, in graph order.

    Args:
        module: a slot's own op.
        specs: spec of every tensor by node name.
    """
    return _Walk(module, specs).free_groups()


class _Walk:
    def __init__(self, module: fx.GraphModule, specs: dict[str, TensorSpec]) -> None:
        self.module, self.specs = module, specs
        self.groups: dict[fx.Node, ChannelGroup] = {}
        self.calls: dict[str, int] = {}

    def free_groups(self) -> list[ChannelGroup]:
        for node in self.module.graph.nodes:
            if node.op == "call_module":
                self.calls[str(node.target)] = self.calls.get(str(node.target), 0) + 1
        for node in self.module.graph.nodes:
            self._visit(node)
        unique = {id(group): group for group in self.groups.values()}
        return [g for g in unique.values() if g.fixed is None and g.producers and g.consumers]

    def _visit(self, node: fx.Node) -> None:
        if node.op == "output":
            for source in node.all_input_nodes:
                self._fix(source, "the slot's exit")
        elif node.op == "placeholder":
            self._start(node, fixed="the slot's entry")
        elif node.op == "call_module":
            self._visit_module(node, self.module.get_submodule(str(node.target)))
        else:
            self._visit_function(node)

    def _visit_module(self, node: fx.Node, layer: nn.Module) -> None:
        path = str(node.target)
        (source,) = node.all_input_nodes if len(node.all_input_nodes) == 1 else (None,)
        group = self.groups.get(source) if source is not None else None
        used_twice = self.calls[path] > 1 and next(layer.parameters(), None) is not None
        if source is None or group is None or used_twice:
            self._unknown(node)
        elif (isinstance(layer, nn.Conv2d) and layer.groups == 1) or (
            isinstance(layer, nn.Linear) and self.specs[source.name].rank == 2
        ):
            self._dense(node, source, group, path)
        elif (
            isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels
        ) or type(layer) is nn.BatchNorm2d:
            group.followers.append(path)
            self.groups[node] = group
        elif isinstance(layer, _PER_CHANNEL_MODULES):
            self.groups[node] = group
        elif isinstance(layer, nn.Flatten):
            self._flatten(node, source)
        else:
            self._unknown(node)

    def _dense(self, node: fx.Node, source: fx.Node, group: ChannelGroup, path: str) -> None:
        group.consumers.append((path, source.name))
        self._start(node).producers.append(path)

    def _visit_function(self, node: fx.Node) -> None:
        name = getattr(node.target, "__name__", str(node.target))
        if node.name not in self.specs:
            self._unknown(node)
        elif name in _PER_CHANNEL_FUNCTIONS or (
            name == "mean" and _keeps_channels(node, self.specs[node.name].rank)
        ):
            self._unite(node)
        elif name == "flatten":
            self._flatten(node, node.all_input_nodes[0])
        else:
            self._unknown(node)

    def _unite(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.groups]
        sizes = {self.groups[source].size for source in sources}
        ranks = {self.specs[source.name].rank for source in sources}
        if len(sources) != len(node.all_input_nodes) or len(sizes) != 1 or len(ranks) != 1:
            self._unknown(node)
            return
        first = self.groups[sources[0]]
        for source in sources[1:]:
            other = self.groups[source]
            if other is not first:
                first.absorb(other)
                for member, group in self.groups.items():
                    if group is other:
                        self.groups[member] = first
        self.groups[node] = first

    def _flatten(self, node: fx.Node, source: fx.Node) -> None:
        one_value_per_channel = all(size == 1 for size in self.specs[source.name].spatial)
        if one_value_per_channel and self.specs[node.name].rank == 2:
            self._unite(node)
        else:
            self._unknown(node)

    def _unknown(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self._fix(source, f"{node.name} is not understood")
        if node.name in self.specs:
            self._start(node, fixed=f"{node.name} is not understood")

    def _fix(self, node: fx.Node, reason: str) -> None:
        if node in self.groups:
            self.groups[node].fixed = self.groups[node].fixed or reason

    def _start(self, node: fx.Node, fixed: str | None = None) -> ChannelGroup:
        spec = self.specs[node.name]
        group = ChannelGroup(spec.channels if spec.rank > 1 else 0, fixed)
        self.groups[node] = group
        return group


def _keeps_channels(node: fx.Node, rank: int) -> bool:
    """A mean over space that keeps the dimensions, as in a squeeze-excite gate."""
    dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keep: Any = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    if not keep or dims is None:
        return False
    dims = (dims,) if isinstance(dims, int) else dims
    return {0, 1}.isdisjoint(dim % rank for dim in dims)
