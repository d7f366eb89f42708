"""Checkpoints of training: plain values and tensors, never pickles."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def pack_training(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """All tensors that training needs to go on, by name: `model.*` and `optimizer.N.*`."""
    tensors = {f"model.{name}": value.detach() for name, value in module.state_dict().items()}
    if optimizer is None:
        return tensors
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).detach()
    return tensors


def unpack_training(
    tensors: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer | None
) -> None:
    """Restores what `pack_training` gave; learning rates are the schedule's to set."""
    module.load_state_dict(without_prefix(tensors, "model."))
    if optimizer is None:
        return
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in without_prefix(tensors, "optimizer.").items():
        index, _, entry = name.partition(".")
        states.setdefault(int(index), {})[entry] = value
    packed: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({**packed, "state": states})


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, without it."""
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }


class CheckpointClock:
    """Says when to write a checkpoint: every minute, more rarely where writing takes long.

    Args:
        seconds: between two checkpoints.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def written(self, started: float) -> None:
        """Notes that a checkpoint was written since `started` (time.monotonic).

        At most a twentieth of the time goes into checkpoints.
        """
        now = time.monotonic()
        self._due = now + max(self._seconds, 20 * (now - started))
