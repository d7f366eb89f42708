"""The teacher's own op with ReLU in the place of costlier activations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from lanac.ir import OpSpec
from lanac.ir.graphs import function_name
from lanac.ops.base import SlotView
from lanac.ops.least_squares import refit
from lanac.ops.linear_maps import replace_layer

COSTLY_MODULES = (nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus)
COSTLY_FUNCTIONS = {"silu", "gelu", "hardswish", "mish", "elu", "celu", "selu", "softplus"}


class ReluFamily:
    """Inherits: all weights; the layers behind the activations are fitted to the teacher."""

    name = "relu"
    equation = "y = t(x) with ReLU for SiLU, GELU, Hardswish and the like"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [OpSpec(self.name)] if any(_costly(view, view.teacher)) else []

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        module = copy.deepcopy(view.teacher)
        nodes = list(_costly(view, module))
        for node in nodes:
            _simplify(module, node)
        module.recompile()
        if view.reference is not None:
            refit(module, view.reference, [node.name for node in nodes])
        return module


def _costly(view: SlotView, module: fx.GraphModule) -> Iterator[fx.Node]:
    """Nodes that apply a costly activation to more than one place; those of a gate cost nothing."""
    for node in module.graph.nodes:
        if node.name not in view.inner_specs:
            continue
        shape = view.inner_specs[node.name].sample_shape
        if max(shape, default=1) == view.inner_specs[node.name].with_batch(1).nbytes() // (
            view.inner_specs[node.name].dtype.itemsize
        ):
            continue
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if isinstance(_activation(layer), COSTLY_MODULES):
                yield node
        elif function_name(node) in COSTLY_FUNCTIONS:
            yield node


def _activation(layer: nn.Module) -> nn.Module | None:
    """The layer itself, or the activation that a norm has inside (timm's BatchNormAct2d)."""
    inner = getattr(layer, "act", None)
    return inner if isinstance(inner, nn.Module) else layer


def _simplify(module: fx.GraphModule, node: fx.Node) -> None:
    if node.op != "call_module":
        node.op, node.target = "call_function", F.relu
        node.args, node.kwargs = (node.all_input_nodes[0],), {}
        return
    layer: Any = module.get_submodule(str(node.target))
    if isinstance(layer, COSTLY_MODULES):
        replace_layer(module, str(node.target), nn.ReLU())
    else:
        layer.act = nn.ReLU()


FAMILY = ReluFamily()
