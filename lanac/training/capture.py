"""The teacher's features at the borders of its slots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.ir import Program, is_in_place
from lanac.training.data import Batch
from lanac.training.device import on_device

LEAST_SAMPLES = 8
"""Samples that every slot keeps, whatever they take: the places of one image are much alike."""


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


def collect_inputs(
    capture: SlotCapture, batches: Iterable[Batch], slots: Collection[str], slot_bytes: int
) -> dict[str, Tensor]:
    """What enters some slots over several batches, within a bound of memory.

    Every slot keeps samples from the first on, as many as its memory holds and at least
    `LEAST_SAMPLES`: many of small feature maps, few of large ones, which have more places each. The
    teacher runs once per batch, and stops running when every slot has enough.

    Args:
        capture: the teacher.
        batches: on the capture's device.
        slots: names of the slots.
        slot_bytes: upper limit on what each slot keeps.

    Returns:
        Inputs (B, ...) by slot name, on the CPU.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in slots}
    full: set[str] = set()
    for batch in batches:
        features = capture.run(batch)
        for name in kept.keys() - full:
            entered = features[name][0]
            sample_bytes = max(1, entered[0].numel() * entered.element_size())
            held = sum(map(len, kept[name]))
            room = max(LEAST_SAMPLES, slot_bytes // sample_bytes) - held
            # A copy: a view would keep the whole batch alive.
            kept[name].append(entered[:room].to("cpu", copy=True))
            if room <= len(entered):
                full.add(name)
        capture.features = {}
        if len(full) == len(kept):
            break
    return {name: torch.cat(parts) for name, parts in kept.items() if parts}


def writes_its_input(module: nn.Module) -> bool:
    """Whether a graph's first step may change the tensor that enters, as `relu_` does."""
    if not isinstance(module, fx.GraphModule):
        return False
    entry = next(node for node in module.graph.nodes if node.op == "placeholder")
    return any(is_in_place(module, user) for user in entry.users)
