"""Taking channels out of a slot's op: its layers, its constants and the sizes in its graph."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.ir.graphs import function_name, read_attribute
from lanac.ops.channel_walk import ChannelWalk, LayerChannels
from lanac.ops.linear_maps import replace_layer

_SHAPES = {"reshape", "view", "expand"}


def narrow(module: fx.GraphModule, walk: ChannelWalk, removed: Tensor) -> None:
    """Takes units of channels out of a module, in place; its layers are replaced, not changed.

    Args:
        module: the op that `walk` went through, or a copy of it.
        walk: the numbers of its channels.
        removed: numbers of the units that go.
    """
    if not len(removed):
        return
    kept = _Kept(walk, removed)
    for path, layer in walk.layers.items():
        reads, gives = kept.places(layer.inputs), kept.places(layer.outputs)
        if not (bool(reads.all()) and bool(gives.all())):
            replace_layer(module, path, _narrowed(module.get_submodule(path), layer, reads, gives))
    for path, numbers in walk.attributes.items():
        _narrow_attribute(module, path, kept, numbers)
    for node in list(module.graph.nodes):
        if node.op in ("call_function", "call_method"):
            _narrow_node(module.graph, node, kept)
    module.recompile()


class _Kept:
    """Which places of a tensor stay."""

    def __init__(self, walk: ChannelWalk, removed: Tensor) -> None:
        self.walk, self._removed = walk, removed

    def places(self, numbers: Tensor) -> Tensor:
        return ~torch.isin(self.walk.unions.roots(numbers), self._removed)

    def along(self, name: str) -> tuple[int, Tensor] | None:
        """The dimension along which a node's tensor loses something, and which places stay."""
        roots = self.walk.roots(name)
        if roots is None:
            return None
        keep = self.places(roots)
        if bool(keep.all()):
            return None
        dim = next((d for d, size in enumerate(keep.shape) if size > 1), 0)
        return dim, keep.flatten()


def _narrowed(layer: nn.Module, channels: LayerChannels, reads: Tensor, gives: Tensor) -> nn.Module:
    """A copy of the layer with the kept inputs and outputs alone."""
    narrowed: Any = copy.deepcopy(layer)
    inputs, outputs = int(reads.sum()), int(gives.sum())
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(narrowed, name, None) is not None:
            _keep(narrowed, name, gives, 0)
    if channels.dense:
        _keep(narrowed, "weight", reads, 1)
    if isinstance(narrowed, nn.Linear):
        narrowed.in_features, narrowed.out_features = inputs, outputs
    elif isinstance(narrowed, (nn.LayerNorm, nn.RMSNorm)):
        narrowed.normalized_shape = (outputs,)
    elif isinstance(narrowed, nn.GroupNorm):
        if narrowed.num_groups > 1:
            narrowed.num_groups = narrowed.num_groups * outputs // narrowed.num_channels
        narrowed.num_channels = outputs
    elif hasattr(narrowed, "num_features"):
        narrowed.num_features = outputs
    else:
        narrowed.groups = max(1, narrowed.groups * inputs // narrowed.in_channels)
        narrowed.in_channels, narrowed.out_channels = inputs, outputs
    return narrowed  # type: ignore[no-any-return]


def _keep(owner: nn.Module, name: str, places: Tensor, dim: int) -> None:
    value = getattr(owner, name)
    index = places.nonzero().flatten().to(value.device)
    kept = value.detach().index_select(dim, index).clone()
    if isinstance(value, nn.Parameter):
        kept = nn.Parameter(kept, requires_grad=value.requires_grad)
    setattr(owner, name, kept)


def _narrow_attribute(module: nn.Module, path: str, kept: _Kept, numbers: Tensor) -> None:
    places = kept.places(numbers)
    if bool(places.all()):
        return
    others = [places.movedim(dim, 0).flatten(1).all(1) for dim in range(places.dim())]
    # Regular: what goes, goes along one dimension.
    dim = next(d for d, keep in enumerate(others) if bool(keep.any()) and places.shape[d] > 1)
    value = read_attribute(module, path)
    owner, _, name = path.rpartition(".")
    assert isinstance(value, Tensor)
    _keep(module.get_submodule(owner), name, others[dim], dim)


def _narrow_node(graph: fx.Graph, node: fx.Node, kept: _Kept) -> None:
    """Sizes and bounds that a node has as constants become those of the narrowed tensors."""
    name = function_name(node)
    if name in _SHAPES:
        along = kept.along(node.name)
        if along is not None:
            _set_size(node, along[0], int(along[1].sum()))
    elif name in ("chunk", "split", "split_with_sizes"):
        _set_sections(graph, node, kept)
    elif name == "getitem" and node.all_input_nodes:
        _set_bounds(node, kept)
    elif name == "narrow" or name == "select":
        _set_start(node, kept)
    elif name == "unflatten":
        along = kept.along(node.name)
        if along is not None:
            dim, sizes = _argument(node, 1, "dim"), list(_argument(node, 2, "sizes"))
            sizes[along[0] - dim] = int(along[1].sum())
            node.args, node.kwargs = (node.args[0], dim, tuple(sizes)), {}


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _set_size(node: fx.Node, dim: int, size: int) -> None:
    """Writes a size into `reshape(x, a, b)` or `reshape(x, (a, b))`; -1 finds its own."""
    first, *sizes = node.args
    nested = len(sizes) == 1 and isinstance(sizes[0], Sequence)
    listed: list[Any] = list(sizes[0]) if nested else list(sizes)  # type: ignore[arg-type]
    if not listed:
        nested, listed = True, list(node.kwargs.get("shape", node.kwargs.get("size", ())))  # type: ignore[arg-type]
        node.kwargs = {}
    if listed[dim] != -1:
        listed[dim] = size
    node.args = (first, tuple(listed)) if nested else (first, *listed)


def _set_sections(graph: fx.Graph, node: fx.Node, kept: _Kept) -> None:
    """`chunk` and `split` along a narrowed dimension become a split into explicit sizes."""
    source = node.all_input_nodes[0]
    dim = _argument(node, 2, "dim", 0)
    along = kept.along(source.name)
    parts = kept.walk.values[node.name]
    if along is None or along[0] != dim % kept.walk.values[source.name].dim():
        return
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + part.shape[dim])
    sizes = [int(along[1][a:b].sum()) for a, b in itertools.pairwise(ends)]
    node.op, node.target = "call_function", torch.split
    node.args, node.kwargs = (source, sizes, dim), {}


def _set_bounds(node: fx.Node, kept: _Kept) -> None:
    """Slices of a narrowed dimension: `x[:, :32]`."""
    source = node.all_input_nodes[0]
    along = kept.along(source.name)
    index = node.args[1]
    if along is None or not isinstance(index, tuple):
        return
    dim, keep = along
    before = [i for i in index if i is not None]
    if Ellipsis in before:
        rank = kept.walk.values[source.name].dim()
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (rank - len(before) + 1), *index[at + 1 :])
    places = [place for place, item in enumerate(index) if item is not None]
    if dim >= len(places):
        return
    changed: list[Any] = list(index)
    item = index[places[dim]]
    if isinstance(item, slice) and (item.start, item.stop, item.step) != (None, None, None):
        start, stop, _ = item.indices(len(keep))
        changed[places[dim]] = slice(int(keep[:start].sum()), int(keep[:stop].sum()), None)
    elif isinstance(item, int):
        changed[places[dim]] = int(keep[: item % len(keep)].sum())
    node.args = (source, tuple(changed))


def _set_start(node: fx.Node, kept: _Kept) -> None:
    """`narrow(x, dim, start, length)` and `select(x, dim, index)` along a narrowed dimension."""
    source = node.all_input_nodes[0]
    along = kept.along(source.name)
    dim, start = _argument(node, 1, "dim"), _argument(node, 2, "start")
    if along is None or along[0] != dim % kept.walk.values[source.name].dim():
        return
    keep = along[1]
    rest: tuple[Any, ...] = ()
    if function_name(node) == "narrow":
        length = _argument(node, 3, "length")
        rest = (int(keep[start : start + length].sum()),)
    node.args, node.kwargs = (source, dim, int(keep[:start].sum()), *rest), {}
