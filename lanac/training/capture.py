"""The teacher's features at the borders of its slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.ir import Program, is_in_place
from lanac.training.data import Batch
from lanac.training.device import on_device


class SlotCapture:
    """Runs the teacher and keeps what enters and leaves every slot.

    Attributes:
        outputs: the teacher's outputs of the last batch.
        features: input (B, ...) and output (B, ...) by slot name, of the last batch.
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        self._split: fx.GraphModule = on_device(program.split(), device).eval()
        self._names = {slot.attribute: slot.name for slot in program.slots}
        self.outputs: Any = None
        self.features: Mapping[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def run(self, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """One forward pass of the teacher; returns the features, which hold no gradients."""
        entered: dict[str, Tensor] = {}
        features: dict[str, tuple[Tensor, Tensor]] = {}
        hooks = []
        for attribute, name in self._names.items():
            module = self._split.get_submodule(attribute)
            writes = writes_its_input(module)

            def enter(
                module: nn.Module, inputs: tuple[Any, ...], name: str = name, writes: bool = writes
            ) -> tuple[Any, ...] | None:
                entered[name] = inputs[0]
                return (inputs[0].clone(),) if writes else None

            def leave(
                module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str = name
            ) -> None:
                features[name] = (entered[name], output)

            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(leave))
        try:
            self.outputs = self._split(*batch.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.features = features
        return features


def writes_its_input(module: nn.Module) -> bool:
    """Whether a graph's first step may change the tensor that enters, as `relu_` does."""
    if not isinstance(module, fx.GraphModule):
        return False
    entry = next(node for node in module.graph.nodes if node.op == "placeholder")
    return any(is_in_place(module, user) for user in entry.users)
