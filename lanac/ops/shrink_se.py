"""The teacher's own op without its gates: squeeze-excite branches become constants."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lanac.ir import OpSpec, TensorSpec
from lanac.ir.graphs import function_name
from lanac.ops.base import SlotView
from lanac.ops.least_squares import refit
from lanac.ops.linear_maps import LinearMap, linear_maps

_PRODUCTS = {"mul", "imul", "mul_"}


@dataclass(frozen=True)
class Gate:
    """A product of a tensor with what a branch makes of its mean over space.

    Attributes:
        product: the node that multiplies.
        gated: the node whose tensor is multiplied, (B, C, H, W).
        factor: the node that gives the factors, (B, C, 1, 1).
    """

    product: fx.Node
    gated: fx.Node
    factor: fx.Node


class ShrinkSeFamily:
    """Inherits: all other weights; a gate becomes its mean, inside a layer next to it if it can."""

    name = "shrink_se"
    equation = "y = t(x) with the mean of each squeeze-excite gate in its place"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [OpSpec(self.name)] if find_gates(view.teacher, view.inner_specs) else []

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        module = copy.deepcopy(view.teacher)
        changed: list[str] = []
        for gate in find_gates(module, view.inner_specs):
            channels = view.inner_specs[gate.factor.name].channels
            mean = torch.full((1, channels, 1, 1), 0.5)
            if view.reference is not None:
                mean = view.reference.means[gate.factor.name]
            changed += [user.name for user in gate.product.users]
            _remove(module, gate, mean)
        module.graph.lint()
        module.delete_all_unused_submodules()
        module.recompile()
        if view.reference is not None:
            refit(module, view.reference, changed)
        return module


def find_gates(module: fx.GraphModule, specs: dict[str, TensorSpec]) -> list[Gate]:
    """The gates of a module, found by what flows: one branch pools the tensor that it then scales.

    Args:
        module: a slot's own op.
        specs: spec of every tensor by node name.
    """
    gates = []
    for node in module.graph.nodes:
        if function_name(node) not in _PRODUCTS or len(node.all_input_nodes) != 2:
            continue
        one, other = node.all_input_nodes
        for gated, factor in ((one, other), (other, one)):
            fits = _is_map(specs, gated) and _scales(specs, gated, factor)
            if fits and _pooled(specs, factor) == {gated}:
                gates.append(Gate(node, gated, factor))
    return gates


def _is_map(specs: dict[str, TensorSpec], node: fx.Node) -> bool:
    spec = specs.get(node.name)
    return spec is not None and spec.rank == 4 and spec.spatial != (1, 1)


def _scales(specs: dict[str, TensorSpec], gated: fx.Node, factor: fx.Node) -> bool:
    """Whether a tensor has one value for each channel of the other one."""
    wanted = (*specs[gated.name].shape[:2], 1, 1)
    return factor.name in specs and specs[factor.name].shape == wanted


def _pooled(specs: dict[str, TensorSpec], factor: fx.Node) -> set[fx.Node]:
    """The feature maps that a branch pools."""
    found: set[fx.Node] = set()
    seen, waiting = {factor}, [factor]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if _is_map(specs, source):
                found.add(source)
            elif source not in seen and source.name in specs:
                seen.add(source)
                waiting.append(source)
            elif source.op == "placeholder":
                found.add(source)
    return found


def _remove(module: fx.GraphModule, gate: Gate, mean: Tensor) -> None:
    layers = dict(linear_maps(module))
    readers = [layers.get(user) for user in gate.product.users]
    others = [user for user in gate.gated.users if user is not gate.product]
    rest = [user for user in others if not _leads_to(user, gate.factor)]
    if all(reader is not None for reader in readers):
        for reader in readers:
            assert reader is not None
            _scale_inputs(reader, mean.flatten())
        gate.product.replace_all_uses_with(gate.gated)
    elif (
        not rest
        and gate.gated.op == "call_module"
        and _scale_outputs(module.get_submodule(str(gate.gated.target)), mean.flatten())
    ):
        gate.product.replace_all_uses_with(gate.gated)
    else:
        name = f"scale_of_{gate.product.name}"
        module.register_parameter(name, nn.Parameter(mean.clone()))
        with module.graph.inserting_before(gate.product):
            scale = module.graph.get_attr(name)
            scaled = module.graph.call_function(torch.mul, (gate.gated, scale))
        gate.product.replace_all_uses_with(scaled)
    _erase(module.graph, gate.product)


def _leads_to(node: fx.Node, target: fx.Node) -> bool:
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        at = waiting.pop()
        if at is target:
            return True
        seen.add(at)
        waiting += [user for user in at.users if user not in seen]
    return False


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Takes out a node that nobody reads, and what only it read."""
    sources = node.all_input_nodes
    graph.erase_node(node)
    for source in sources:
        if not source.users and source.op != "placeholder":
            _erase(graph, source)


@torch.no_grad()
def _scale_inputs(layer: LinearMap, factors: Tensor) -> None:
    """The layer as if its inputs were multiplied, exactly."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    per_output = factors.view(groups, 1, -1).expand(-1, layer.weight.shape[0] // groups, -1)
    shape = [*layer.weight.shape[:2], *[1] * (layer.weight.dim() - 2)]
    layer.weight.mul_(per_output.reshape(shape))


@torch.no_grad()
def _scale_outputs(layer: nn.Module, factors: Tensor) -> bool:
    """The layer as if its outputs were multiplied, exactly; False where it cannot be."""
    plain = type(layer) in (nn.Conv2d, nn.BatchNorm2d)
    weight = getattr(layer, "weight", None)
    if not plain or not isinstance(weight, Tensor):
        return False
    weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))
    if isinstance(layer.bias, Tensor):
        layer.bias.mul_(factors)
    return True


FAMILY = ShrinkSeFamily()
