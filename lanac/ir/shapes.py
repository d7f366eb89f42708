"""Shapes: running a graph once to learn the spec of every tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lanac.ir.spec import TensorSpec


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.specs: dict[str, TensorSpec] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.specs[n.name] = TensorSpec.of(value)
        return value


@torch.no_grad()
def record_specs(
    module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> tuple[dict[str, TensorSpec], Any]:
    """The spec of every tensor by node name, and the module's outputs."""
    recorder = _Recorder(module)
    outputs = recorder.run(*inputs)
    return recorder.specs, outputs
