"""What a slot is, in the words of people: its kind and its layers. Read from the graph alone."""

from __future__ import annotations

import itertools
from typing import Any

from torch import fx, nn

from lanac.ir import Program, TensorSpec

CONV, ATTENTION, MLP, HEAD, OTHER = KINDS = ("conv", "attention", "mlp", "head", "other")
"""Kinds of slots. `head`: what turns features into the network's answer."""

_ATTENTION = {"scaled_dot_product_attention", "_native_multi_head_attention", "softmax"}
_GATE = "se"
_VECTORS = 2


def kind_of(program: Program, nodes: tuple[str, ...]) -> str:
    """One of `KINDS` for a region of the graph, given by its nodes in order."""
    modules = [module for name in nodes if (module := _module(program, name)) is not None]
    if _is_head(program, nodes):
        return HEAD
    names = {_function_name(program.nodes[name]) for name in nodes}
    if names & _ATTENTION or any(_is_attention(module) for module in modules):
        return ATTENTION
    if any(_is_convolution(module) for module in modules):
        return CONV
    if any(isinstance(module, nn.Linear) for module in modules):
        return MLP
    return OTHER


def layers_of(program: Program, nodes: tuple[str, ...]) -> str:
    """The layers that couple channels, such as `conv 1x1, dw 3x3 /2, se, conv 1x1 + skip`.

    `dw` is depthwise, `/2` a stride, `se` a squeeze-excite gate, `x4` repetition.
    """
    parts = [text for name in nodes if (text := _layer(program, nodes, program.nodes[name]))]
    grouped = [(text, len(list(same))) for text, same in itertools.groupby(parts)]
    words = [text if count == 1 or text == _GATE else f"{text} x{count}" for text, count in grouped]
    return ", ".join(words) + (" + skip" if _has_skip(program, nodes) else "")


def _layer(program: Program, nodes: tuple[str, ...], node: fx.Node) -> str | None:
    module = _module(program, node.name)
    if module is None:
        return "attention" if _function_name(node) in _ATTENTION - {"softmax"} else None
    if _is_attention(module):
        return "attention"
    if isinstance(module, nn.Linear):
        return f"linear {module.out_features}"
    if not _is_convolution(module):
        return None
    if _is_pooled(program, node.name) and not _is_pooled(program, nodes[-1]):
        return _GATE
    return _convolution(module)


def _is_pooled(program: Program, name: str) -> bool:
    return name in program.specs and set(program.specs[name].spatial) == {1}


def _convolution(module: Any) -> str:
    size = "x".join(map(str, module.kernel_size))
    kind = "conv"
    if module.groups > 1:
        kind = "dw" if module.groups == module.in_channels else "grouped"
    if module.transposed:
        kind = "transposed"
    stride = max(module.stride)
    return f"{kind} {size}" + (f" /{stride}" if stride > 1 else "")


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _is_attention(module: nn.Module) -> bool:
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


def _is_head(program: Program, nodes: tuple[str, ...]) -> bool:
    """Ends in vectors, and maps features by a matrix; nothing behind it does."""
    last = program.nodes[nodes[-1]]
    if last.name not in program.specs or program.specs[last.name].rank != _VECTORS:
        return False
    before = [source for name in nodes for source in program.nodes[name].all_input_nodes]
    entries = [
        program.specs[node.name]
        for node in before
        if node.name not in nodes and node.name in program.specs
    ]
    return _feeds_output(last) or any(spec.rank > _VECTORS for spec in entries)


def _feeds_output(node: fx.Node) -> bool:
    return any(user.op == "output" for user in node.users)


def _has_skip(program: Program, nodes: tuple[str, ...]) -> bool:
    """Adds two tensors that are both computed from the input."""
    for node in map(program.nodes.__getitem__, nodes):
        if _function_name(node) in ("add", "iadd", "add_"):
            sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
            if sum(source.name in program.specs for source in sources) > 1:
                return True
    return False


def _module(program: Program, name: str) -> nn.Module | None:
    node = program.nodes[name]
    if node.op != "call_module":
        return None
    return program.teacher.get_submodule(str(node.target))


def _function_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def dimensions(spec: TensorSpec) -> str:
    """A shape without the batch: `64x56x56`."""
    return "x".join(map(str, spec.sample_shape)) or "scalar"
