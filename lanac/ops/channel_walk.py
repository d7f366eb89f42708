"""Channels followed through a slot's graph: every one has a number, and the numbers move as data do.

The graph is run on integers. Each tensor holds, for every element, the number of the channel that it
belongs to; what moves data (reshape, transpose, cat, chunk, ...) simply runs on these tensors. Layers
give new numbers, operations between tensors unite the numbers that meet (`Unions`), and what is not
known here fixes them. A head of attention falls out of this by itself: products unite the channels
that are summed over.

Torch-Pruning's dependency graph solves the same for whole networks and groups the layers of a slot as
this does (tried: 1.6.1 on slots of ResNet-18, EfficientNet-B0, ViT). It is not used because it edits
modules alone: the sizes that a traced slot has as literals stay as they were, and a head taken from
ViT's fused projection then fails in `reshape(B, N, 3, 3, 64)`. Its groups name the slot's exit but not
its entry, which is no layer, so that what an inner channel is added to would not be held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lanac.ir import TensorSpec
from lanac.ir.graphs import function_name, read_attribute, run_node
from lanac.ops.linear_maps import is_plain
from lanac.ops.unions import FIXED, Unions

PER_CHANNEL_MODULES = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Mish, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.Hardtanh, nn.Tanh, nn.Softplus, nn.CELU, nn.SELU, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.Identity, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
_PER_CHANNEL_CLASSES = {"DropPath", "StochasticDepth", "GELUTanh", "QuickGELU"}
"""Leaf modules of other libraries, by name, so that those need not be imported."""
PER_CHANNEL_FUNCTIONS = {
    "relu", "relu_", "relu6", "silu", "gelu", "elu", "leaky_relu", "hardswish", "sigmoid", "tanh",
    "hardsigmoid", "hardtanh", "mish", "softplus", "dropout", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "boolean_dispatch", "interpolate", "clamp", "sqrt", "rsqrt", "exp", "pow",
    "square", "neg", "abs", "add", "iadd", "add_", "sub", "isub", "mul", "imul", "mul_", "truediv",
    "div", "contiguous", "clone", "float", "to", "type_as", "maximum", "minimum",
}  # fmt: skip
MOVES = {
    "reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "t",
    "unbind", "chunk", "split", "split_with_sizes", "getitem", "cat", "concat", "concatenate",
    "stack", "expand", "expand_as", "squeeze", "unsqueeze", "roll", "flip", "narrow", "select",
}  # fmt: skip
_ASKS = {"size", "dim", "getattr", "numel"}
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
_PRODUCTS = {"matmul", "bmm"}
_MOST_ELEMENTS = 1 << 18
"""Attributes above this size are taken as fixed: they are tables, not scales."""


@dataclass(frozen=True)
class LayerChannels:
    """The channels of a layer with weights.

    Attributes:
        node: the name of its node.
        source: the name of the node that feeds it.
        inputs: numbers of the channels that it reads, (in,).
        outputs: numbers of the channels that it gives, (out,); the same as `inputs` for a norm.
        dense: whether every output depends on every input.
    """

    node: str
    source: str
    inputs: Tensor
    outputs: Tensor
    dense: bool


class ChannelWalk:
    """The numbers of all channels of a module with one input and one output.

    Attributes:
        unions: what is united.
        values: what each node gives by name: tensors of numbers, or what the node gives otherwise.
        layers: layers with weights by path.
        attributes: numbers of the tensors that the graph reads by itself, by path.
    """

    def __init__(self, module: fx.GraphModule, specs: Mapping[str, TensorSpec]) -> None:
        self.module, self.specs, self.unions = module, specs, Unions()
        self.values: dict[str, Any] = {}
        self.layers: dict[str, LayerChannels] = {}
        self.attributes: dict[str, Tensor] = {}
        nodes = list(module.graph.nodes)
        called = [str(node.target) for node in nodes if node.op == "call_module"]
        self._shared = {path for path in called if called.count(path) > 1}
        for node in nodes:
            self.values[node.name] = self._value(node)
        self._fix_irregular()

    def roots(self, name: str) -> Tensor | None:
        """The numbers of a node's tensor after all unions, None where it gives no tensor.

        Dimensions along which nothing changes have size 1.
        """
        value = self.values[name]
        return _short(self.unions.roots(_short(value))) if isinstance(value, Tensor) else None

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._constant(node)
        if node.op == "output":
            return self._fix_inputs(node)
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "call_module":
            return self._module(node, self.module.get_submodule(str(node.target)))
        return self._function(node)

    # What nodes give --------------------------------------------------------------------------

    def _constant(self, node: fx.Node) -> Any:
        """A tensor in which all must stay; None for what is no tensor."""
        if node.name not in self.specs:
            return None
        return torch.tensor(FIXED).expand(self.specs[node.name].shape)

    def _unknown(self, node: fx.Node) -> Any:
        self._fix_inputs(node)
        return self._constant(node)

    def _fix_inputs(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            for value in _tensors(self.values[source.name]):
                self.unions.fix(_short(value))

    def _attribute(self, node: fx.Node) -> Any:
        path = str(node.target)
        value = read_attribute(self.module, path)
        if not isinstance(value, Tensor):
            return None
        if value.numel() > _MOST_ELEMENTS or not value.is_floating_point():
            return torch.tensor(FIXED).expand(value.shape)
        return self.attributes.setdefault(path, self.unions.new(*value.shape))

    def _module(self, node: fx.Node, layer: nn.Module) -> Any:
        path, sources = str(node.target), node.all_input_nodes
        value = self.values[sources[0].name] if len(sources) == 1 else None
        if not isinstance(value, Tensor) or node.kwargs:
            return self._unknown(node)
        if isinstance(layer, PER_CHANNEL_MODULES) or type(layer).__name__ in _PER_CHANNEL_CLASSES:
            return self._same_channels(node, value)
        if isinstance(layer, nn.Flatten):
            return layer(value)
        if isinstance(layer, (nn.Softmax, nn.LogSoftmax)):
            return self._softmax(node, layer.dim)
        dim = _channel_dimension(layer)
        if dim is None or path in self._shared or not _varies_only(value, dim):
            return self._unknown(node)
        inputs = value.movedim(dim, 0).flatten(1)[:, 0]
        outputs = self._outputs(layer, inputs)
        if outputs is None:
            return self._unknown(node)
        dense = outputs is not inputs and getattr(layer, "groups", 1) == 1
        self.layers[path] = LayerChannels(node.name, sources[0].name, inputs, outputs, dense)
        shape = self.specs[node.name].shape
        others = [1] * len(shape)
        others[dim] = -1
        return outputs.view(others).expand(shape)

    def _outputs(self, layer: nn.Module, inputs: Tensor) -> Tensor | None:
        """The numbers of a layer's outputs; None where it is not what it seems to be."""
        if isinstance(layer, nn.Linear):
            return self.unions.new(layer.out_features)
        if isinstance(layer, nn.GroupNorm) and layer.num_groups > 1:
            self._unite_within(inputs.view(layer.num_groups, -1))
        if not isinstance(layer, _ConvNd):
            return inputs
        outputs = self.unions.new(layer.out_channels)
        if layer.groups > 1:  # a group stands or falls as a whole
            joined = [numbers.view(layer.groups, -1) for numbers in (inputs, outputs)]
            self._unite_within(torch.cat(joined, 1))
        return outputs

    def _unite_within(self, rows: Tensor) -> None:
        self.unions.unite(rows, rows[:, :1])

    def _function(self, node: fx.Node) -> Any:
        name = function_name(node)
        if name in _ASKS or not any(
            list(_tensors(self.values[source.name])) for source in node.all_input_nodes
        ):
            return self._run(node)
        if name in MOVES:
            return self._move(node)
        if name in PER_CHANNEL_FUNCTIONS:
            return self._elementwise(node)
        if name in _REDUCTIONS:
            return self._reduce(node)
        if name in ("softmax", "log_softmax"):
            dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
            return self._softmax(node, dim)
        if name == "pad":
            return self._pad(node)
        if name in _PRODUCTS and len(node.args) == 2:
            return self._product(node)
        if name == "scaled_dot_product_attention":
            return self._attention(node)
        return self._unknown(node)

    def _run(self, node: fx.Node) -> Any:
        """Runs a node on numbers; None where it takes what is not known."""
        if any(self.values[source.name] is None for source in node.all_input_nodes):
            return self._constant(node)
        arguments: Any
        arguments, keywords = fx.node.map_arg(
            (node.args, node.kwargs), lambda source: self.values[source.name]
        )
        if function_name(node) == "view":  # of what is stretched there are no views
            return arguments[0].reshape(*arguments[1:])
        return run_node(self.module, node, arguments, keywords)

    def _move(self, node: fx.Node) -> Any:
        if function_name(node) == "getitem" and isinstance(node.args[1], fx.Node):
            table = self.values[node.all_input_nodes[0].name]
            if isinstance(table, Tensor):  # a look-up: any row may be read
                self.unions.unite(_short(table), _short(table)[:1])
        value = self._run(node)
        if node.name in self.specs and (
            not isinstance(value, Tensor) or value.shape != self.specs[node.name].shape
        ):
            return self._unknown(node)
        return _short(value).expand(value.shape) if isinstance(value, Tensor) else value

    def _same_channels(self, node: fx.Node, value: Tensor) -> Any:
        """The numbers of a tensor in another shape: sizes may differ where they do not vary."""
        short, shape = _short(value), self.specs[node.name].shape
        if short.dim() != len(shape):
            return self._unknown(node)
        fits = all(size in (1, wanted) for size, wanted in zip(short.shape, shape, strict=True))
        return short.expand(shape) if fits else self._unknown(node)

    def _elementwise(self, node: fx.Node) -> Any:
        operands = [self.values[source.name] for source in node.all_input_nodes]
        operands = [value for value in operands if isinstance(value, Tensor)]
        if node.name not in self.specs or not operands:
            return self._unknown(node)
        if len(operands) == 1:
            return self._same_channels(node, operands[0])
        rank = len(self.specs[node.name].shape)
        first, *others = (value[(None,) * (rank - value.dim())] for value in operands)
        for other in others:
            first = self._meet(first, other)
        return self._same_channels(node, first)

    def _meet(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Unites the numbers of two tensors that are combined element by element.

        A dimension of size 1 that is stretched says nothing about the other tensor's channels.
        """
        left, right = _short(ours), _short(theirs)
        shape = (ours + theirs).shape
        both = [
            max(a, b) > 1 and min(ours.shape[d], theirs.shape[d]) > 1
            for d, (a, b) in enumerate(zip(left.shape, right.shape, strict=True))
        ]
        if any(both):
            self.unions.unite(left, right)
        elif left.numel() > 1 and right.numel() > 1:
            self.unions.fix(left)
            self.unions.fix(right)
        return (left if left.numel() >= right.numel() else right).expand(shape)

    def _reduce(self, node: fx.Node) -> Any:
        value = self.values[node.all_input_nodes[0].name]
        dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        if dims is None or not isinstance(value, Tensor) or node.name not in self.specs:
            return self._unknown(node)
        listed: list[int] = [dims] if isinstance(dims, int) else list(dims)
        if any(_short(value).shape[dim] > 1 for dim in listed):
            return self._unknown(node)
        keep = bool(node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False))
        return value.amax(tuple(listed), keepdim=keep)

    def _softmax(self, node: fx.Node, dim: Any) -> Any:
        value = self.values[node.all_input_nodes[0].name]
        if not isinstance(dim, int) or _short(value).shape[dim] > 1:
            return self._unknown(node)
        return value

    def _pad(self, node: fx.Node) -> Any:
        value = self.values[node.all_input_nodes[0].name]
        short, shape = _short(value), self.specs[node.name].shape
        if all(size in (1, wanted) for size, wanted in zip(short.shape, shape, strict=True)):
            return short.expand(shape)
        return self._unknown(node)

    def _product(self, node: fx.Node) -> Any:
        """A matrix product: what is summed over stands or falls as a whole."""
        if not all(isinstance(source, fx.Node) for source in node.args):
            return self._unknown(node)
        ours, theirs = (self.values[str(source)] for source in node.args)
        if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
            return self._unknown(node)
        if ours.dim() != theirs.dim() or ours.dim() < 3:
            return self._unknown(node)
        left, right = _short(ours), _short(theirs)
        if left.shape[-1] > 1 or right.shape[-2] > 1:
            for short in (left, right):
                self.unions.unite(short, short[..., :1, :1])
            self.unions.unite(left[..., :1, :1], right[..., :1, :1])
        rows = left[..., :1].expand(*ours.shape[:-1], 1)
        columns = right[..., :1, :].expand(*theirs.shape[:-2], 1, theirs.shape[-1])
        return self._meet(rows, columns)

    def _attention(self, node: fx.Node) -> Any:
        """Heads stand or fall as a whole: queries, keys and values of one of them together."""
        values = [self.values[source.name] for source in node.all_input_nodes[:3]]
        mask = node.kwargs.get("attn_mask", node.args[3] if len(node.args) > 3 else None)
        shape = self.specs[node.name].shape
        if len(values) < 3 or any(
            not isinstance(value, Tensor) or value.dim() != len(shape) for value in values
        ):
            return self._unknown(node)
        shorts = [_short(value) for value in values]
        for short in shorts:
            self.unions.unite(short, short[..., :1, :1])
        heads = [short[..., :1, :1] for short in shorts]
        self.unions.unite(heads[0], heads[1])
        self.unions.unite(heads[0], heads[2])
        if isinstance(mask, fx.Node):
            given = self.values[mask.name]
            if not isinstance(given, Tensor):
                return self._unknown(node)
            like = heads[0].expand(*shape[:-2], *given.shape[-2:])
            self._meet(like, given[(None,) * (like.dim() - given.dim())])
        return heads[2].expand(shape)

    def _fix_irregular(self) -> None:
        """Channels can be removed from a tensor along one dimension only, and not along the batch."""
        fed: set[fx.Node] = set()
        for node in self.module.graph.nodes:
            if node.op == "placeholder" or any(source in fed for source in node.all_input_nodes):
                fed.add(node)
        batched = {node.name for node in fed}
        changed = True
        while changed:
            changed = False
            for name in self.values:
                roots = self.roots(name)
                if roots is None or not bool((roots != FIXED).any()):
                    continue
                varying = [dim for dim, size in enumerate(roots.shape) if size > 1]
                if len(varying) > 1 or (varying == [0] and name in batched):
                    self.unions.fix(roots)
                    changed = True


def _channel_dimension(layer: nn.Module) -> int | None:
    """The dimension of a layer's input that its weights go along; None for layers not known."""
    if isinstance(layer, _ConvTransposeNd) or not is_plain(layer):
        return None
    if isinstance(layer, (_ConvNd, _NormBase, nn.GroupNorm)):
        return 1
    if isinstance(layer, nn.Linear):
        return -1
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) == 1:
        # timm and torchvision have a layer norm over the second dimension under this name.
        return 1 if type(layer).__name__ == "LayerNorm2d" else -1
    return None


def _short(value: Tensor) -> Tensor:
    """The tensor with size 1 in every dimension along which nothing changes."""
    for dim in range(value.dim()):
        if value.shape[dim] > 1:
            first = value.narrow(dim, 0, 1)
            if value.stride(dim) == 0 or bool((value == first).all()):
                value = first
    return value


def _varies_only(value: Tensor, dim: int) -> bool:
    short = _short(value)
    return short.numel() == short.shape[dim]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
