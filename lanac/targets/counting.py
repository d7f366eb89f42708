"""Costs that are counted, not measured: params, flops, peak activation memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lanac.ir import named_tensors

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def count_params(module: nn.Module) -> int:
    """Number of trained values; shared ones count once."""
    return sum(value.numel() for value in module.parameters())


def count_bytes(module: nn.Module, precision: str) -> int:
    """Bytes of all that is stored of a module where its floats have that precision.

    Shared values count once; what a batch norm merely counts does not.
    """
    each = _BYTES[precision]
    stored = {id(value): value for value in (*module.parameters(), *module.buffers())}
    return sum(
        value.numel() * (each if value.is_floating_point() else value.element_size())
        for value in stored.values()
        if value.ndim
    )


@torch.no_grad()
def count_flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Floating point operations of convolutions, matrix products and attention.

    One multiplication with its addition counts as two.
    """
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter knows the matrix products of attention, but not the fused kernels of the CPU.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):
            module(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def peak_activation_bytes(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Largest sum of tensors alive at once while the graph runs in its order; weights not counted.

    Layers count as one step: what a runtime needs inside a layer is its own affair.
    """
    # Traced again even where it is a graph already: its sub-modules may be graphs of their own.
    # Classes of nested outputs are called as they stand: their code cannot be traced.
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    targets = {node.target for graph in graphs for node in graph.nodes}
    classes = tuple(target for target in targets if isinstance(target, type))
    try:
        graph = fx.Tracer(autowrap_functions=classes).trace(module)
    except Exception:  # some part's own code decides by values or shapes, and may raise anything
        graph = _Inliner(autowrap_functions=classes).trace(module)
    meter = _MemoryMeter(fx.GraphModule(module, graph))
    with torch.no_grad():
        meter.run(*inputs)
    return meter.peak


class _Inliner(fx.Tracer):
    """Traces through all that can be traced; what a graph keeps as it is stays one step.

    Slow: every part is traced once more for each part that it is in.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if super().is_leaf_module(m, module_qualified_name):
            return True
        if isinstance(m, fx.GraphModule):
            return False
        try:
            fx.Tracer().trace(m)
        except Exception:
            return True
        return False


class _MemoryMeter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.peak = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        # `env` still holds what this node reads: it is alive while the node is computed.
        stored = [*self.env.values(), value]
        alive = [tensor for item in stored for _, tensor in named_tensors(item)]
        # Not by their address: on the meta device there is none.
        storages = {tensor.untyped_storage()._cdata: tensor for tensor in alive}
        self.peak = max(self.peak, sum(t.untyped_storage().nbytes() for t in storages.values()))
        return value
