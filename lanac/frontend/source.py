"""What a MODEL on the command line becomes, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Source:
    """A teacher with what is known about its data, loss and metric.

    Attributes:
        name: short, for files and titles: `model` for model.py, `resnet18` for timm:resnet18.
        model: the teacher.
        train_data: what the teacher learnt from; None where nothing says so.
        val_data: data that are only reported on; None for a held-out part of the training data.
        example_inputs: None where the training data give them.
        loss: `loss(outputs, targets) -> scalar tensor`, None for the default.
        metric: `metric(outputs, targets) -> number`, None for the default.
    """

    name: str
    model: nn.Module
    train_data: Any = None
    val_data: Any = None
    example_inputs: Any = None
    loss: Callable[..., Any] | None = None
    metric: Callable[..., Any] | None = None

    @property
    def task(self) -> dict[str, Any]:
        """What it says of data, loss and metric, by the names of `lanac.compile`'s arguments."""
        names = ("train_data", "val_data", "example_inputs", "loss", "metric")
        return {name: getattr(self, name) for name in names}
