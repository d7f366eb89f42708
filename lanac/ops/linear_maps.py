"""Convolutions and linear layers as what they have in common: rows of inputs times a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.ir.graphs import is_in_place, run_node

LinearMap = nn.Conv2d | nn.Linear
_KNOWN_CLASSES = {"Conv2dSame", "BatchNormAct2d", "LayerNorm", "LayerNorm2d"}
"""Classes of timm and torchvision, by name, so that those need not be imported."""


def is_linear_map(layer: nn.Module | None) -> bool:
    """Whether a layer's outputs are sums of its inputs at one place, with weights that we can set."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and is_plain(layer)
    return isinstance(layer, nn.Linear) and is_plain(layer)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer runs the code of torch.nn, or of a class that is known to differ by little.

    Others may do anything with their weights, standardise them for example.
    """
    if type(layer).__name__ in _KNOWN_CLASSES:
        return True
    forward = getattr(type(layer), "forward", None)
    return getattr(forward, "__module__", "").startswith("torch.nn.modules.")


def linear_maps(module: fx.GraphModule) -> Iterator[tuple[fx.Node, LinearMap]]:
    """The nodes of a graph that call linear maps, each map once, in graph order."""
    called = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    for node in module.graph.nodes:
        if node.op == "call_module" and called.count(str(node.target)) == 1:
            layer = module.get_submodule(str(node.target))
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and is_linear_map(layer):
                yield node, layer


def replace_layer(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Puts a layer in the place of another; whoever shares the old one keeps it."""
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)


def groups_of(layer: LinearMap) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def matrix_of(layer: LinearMap) -> Tensor:
    """The weights as one matrix per group, (groups, inputs, outputs), float64."""
    weight = layer.weight.detach().double().flatten(1)
    return weight.view(groups_of(layer), -1, weight.shape[1]).transpose(1, 2)


@torch.no_grad()
def set_matrix(layer: LinearMap, matrix: Tensor) -> None:
    """Sets the weights to what `matrix_of` would give."""
    weight = matrix.transpose(1, 2).reshape(layer.weight.shape)
    layer.weight.copy_(weight.to(layer.weight.dtype))


def output_rows(layer: LinearMap, output: Tensor, places: Tensor) -> Tensor:
    """The outputs at some places, (rows, outputs).

    Args:
        layer: gave the output.
        output: (B, outputs, H, W) of a convolution, (..., outputs) of a linear layer.
        places: indices into the output without its channels.
    """
    channels_last = output.movedim(1, -1) if isinstance(layer, nn.Conv2d) else output
    if not isinstance(layer, nn.Conv2d):
        return channels_last.reshape(-1, output.shape[-1])[places]
    return channels_last[_unravel(places, channels_last.shape[:-1])]


def input_rows(layer: LinearMap, x: Tensor, shape: tuple[int, ...], places: Tensor) -> Tensor:
    """What is multiplied with the weights at some places of the output, (groups, rows, inputs).

    Args:
        layer: reads `x`.
        x: its input.
        shape: of its output without the channels: (B, H, W) of a convolution.
        places: indices into that shape.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])[places][None]
    top, bottom, left, right = padding_of(layer, x.shape[-2:])
    if max(top, bottom, left, right) > 0:
        x = F.pad(x, (left, right, top, bottom))
    sample, row, column = _unravel(places, shape)
    taps = [
        x[sample, :, row * layer.stride[0] + i * layer.dilation[0],
          column * layer.stride[1] + j * layer.dilation[1]]
        for i in range(layer.kernel_size[0])
        for j in range(layer.kernel_size[1])
    ]  # fmt: skip
    patches = torch.stack(taps, -1)  # (rows, channels, taps)
    return patches.reshape(len(patches), layer.groups, -1).transpose(0, 1)


def padding_of(layer: nn.Conv2d, size: torch.Size) -> tuple[int, int, int, int]:
    """Zeros at top, bottom, left and right of an image of that size."""
    pairs = []
    for axis in (0, 1):
        reach = (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        if type(layer).__name__ == "Conv2dSame":  # TensorFlow's, depends on the size
            steps = -(-size[axis] // layer.stride[axis])
            total = max((steps - 1) * layer.stride[axis] + reach - size[axis], 0)
        elif isinstance(layer.padding, str):
            total = reach - 1 if layer.padding == "same" else 0
        else:
            pairs += [int(layer.padding[axis])] * 2
            continue
        pairs += [total // 2, total - total // 2]
    return pairs[0], pairs[1], pairs[2], pairs[3]


def _unravel(places: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    indices: list[Tensor] = []
    for size in reversed(shape):
        indices.insert(0, places % size)
        places = places // size
    return tuple(indices)


Visit = Callable[[fx.Node, Mapping[fx.Node, Any]], None]


@torch.no_grad()
def run_graph(module: fx.GraphModule, x: Tensor, before: Visit, after: Visit) -> Tensor:
    """Runs a module of one input node by node; values that nobody needs any more are let go.

    Args:
        module: in eval mode.
        x: its input; not changed.
        before: is called before each node with what has been computed; may change layers.
        after: is called after each node; its own value is among what has been computed.
    """
    nodes = list(module.graph.nodes)
    last = {source: node for node in nodes for source in node.all_input_nodes}
    values: dict[fx.Node, Any] = {}
    for node in nodes:
        if node.op == "placeholder":
            values[node] = x.clone() if any(is_in_place(module, u) for u in node.users) else x
            continue
        if node.op == "output":
            break
        before(node, values)
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = run_node(module, node, arguments, keywords)
        after(node, values)
        for source in node.all_input_nodes:
            if last[source] is node and source is not nodes[-1].all_input_nodes[0]:
                values.pop(source, None)
    result: Tensor = values[nodes[-1].all_input_nodes[0]]
    return result
