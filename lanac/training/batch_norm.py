"""Batch norm: current batch statistics for comparing, re-estimated statistics for emitting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lanac.training.data import Batch


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch norms of a module that keep running statistics."""
    return [
        child
        for child in module.modules()
        if isinstance(child, _BatchNorm) and child.running_mean is not None
    ]


@contextlib.contextmanager
def current_statistics(*modules: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch at hand and forget it (paper, section 2.2).

    Everything else stays as it is: dropout stays off in a module in eval mode.
    """
    norms = [norm for module in modules for norm in batch_norms(module)]
    saved = [(norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, (training, tracking) in zip(norms, saved, strict=True):
            norm.training, norm.track_running_stats = training, tracking


@torch.no_grad()
def re_estimate(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Sets every running mean and variance to the average over the batches; leaves eval mode on."""
    norms = batch_norms(module)
    module.eval()
    if not norms:
        return
    saved: list[Any] = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
        norm.training = True
    for batch in batches:
        module(*batch.inputs)
    for norm, momentum in zip(norms, saved, strict=True):
        norm.momentum, norm.training = momentum, False
