"""The task: what the outputs are measured by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lanac.errors import DataError
from lanac.ir import flatten_tensors
from lanac.training.data import Batch, Data


@dataclass(frozen=True)
class Task:
    """Data, loss and metric of a teacher.

    Attributes:
        train: what candidates and students learn from.
        val: what students are reported on; never used for a decision.
        held_out: a part of the training data kept from training, for decisions.
        user_loss: `loss(outputs, targets)`, None for cross-entropy, or for the distance to the
            teacher's outputs where there are no labels.
        user_metric: `metric(outputs, targets)`, higher is better; None for top-1.
        labelled: whether the data have targets.
    """

    train: Data
    val: Data
    held_out: Data
    user_loss: Callable[..., Any] | None
    user_metric: Callable[..., Any] | None
    labelled: bool

    @property
    def metric_name(self) -> str:
        if self.user_metric is not None and self.labelled:
            return getattr(self.user_metric, "__name__", "metric")
        return "top-1" if self.labelled else "agreement"

    def loss(self, outputs: Any, batch: Batch, teacher_outputs: Any) -> Tensor:
        """Mean loss over the batch, a scalar.

        Without labels it is the distance to the teacher's outputs.

        Raises:
            DataError: the loss does not fit the outputs and the labels.
        """
        if not self.labelled:
            return output_distance(outputs, teacher_outputs)
        try:
            if self.user_loss is not None:
                return torch.as_tensor(self.user_loss(outputs, batch.targets))
            return F.cross_entropy(outputs, batch.targets)
        except Exception as error:  # whatever the user's loss raises; any batch can have bad labels
            raise DataError(self._misfit(outputs, batch, error)) from error

    def metric(self, outputs: Any, batch: Batch, teacher_outputs: Any) -> float:
        """Mean metric over the batch; top-1 in percent by default.

        Without labels it is the share of samples for which teacher and student agree on the
        largest output, in percent.
        """
        if self.user_metric is not None and self.labelled:
            return float(self.user_metric(outputs, batch.targets))
        main = flatten_tensors(outputs)[0]
        targets = batch.targets if self.labelled else flatten_tensors(teacher_outputs)[0].argmax(1)
        return 100 * float((main.argmax(1) == targets).float().mean())

    def check(self, outputs: Any, batch: Batch) -> None:
        """Raises DataError where the loss does not fit the outputs and the targets."""
        loss = self.loss(outputs, batch, outputs)
        if loss.numel() != 1:
            raise DataError(
                f"loss() returned a tensor of shape {tuple(loss.shape)}, expected a scalar: "
                "the mean over the batch"
            )
        if not torch.isfinite(loss).all():
            raise DataError(
                f"the teacher's loss on a batch of {self.train.name} is {float(loss)}; "
                "check the weights that model() loads, the normalisation of the inputs, the labels"
            )

    def check_metric(self, outputs: Any, batch: Batch, name: str) -> None:
        """Raises DataError where the metric does not fit the outputs and the targets of `name`."""
        where = f"the teacher's outputs and the labels of {name}"
        if self.labelled and self.user_metric is None:
            _check_top_1(flatten_tensors(outputs)[0], batch.targets, where)
        try:
            value = self.metric(outputs, batch, outputs)
        except Exception as error:
            raise DataError(
                f"{'metric()' if self.user_metric else self.metric_name} fails on {where}: "
                f"{type(error).__name__}: {error}. Expected metric(outputs, targets) that returns "
                "a number, higher is better."
            ) from error
        if math.isnan(value):
            raise DataError(f"{self.metric_name} is nan on {where}; expected a number")

    def _misfit(self, outputs: Any, batch: Batch, error: Exception) -> str:
        what = "loss()" if self.user_loss is not None else "the default loss, cross-entropy,"
        got = [f"{tuple(value.shape)} {value.dtype}" for value in flatten_tensors(outputs)]
        labels = flatten_tensors(batch.targets)
        targets = ", ".join(
            f"{tuple(v.shape)} {v.dtype} from {v.min().item():g} to {v.max().item():g}"
            for v in labels
            if v.numel()
        )
        return (
            f"{what} fails on the network's outputs ({', '.join(got)}) and the labels of "
            f"{self.train.name} ({targets or type(batch.targets).__name__}): "
            f"{_reason(error)}. "
            "Give labels that fit, or define loss(outputs, targets) in the model file."
        )


def _reason(error: Exception) -> str:
    """The first line of an error, with its kind where that says more."""
    first = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
    return (
        first
        if isinstance(error, (IndexError, RuntimeError))
        else f"{type(error).__name__}: {first}"
    )


def _check_top_1(outputs: Tensor, targets: Any, where: str) -> None:
    expected = (*outputs.shape[:1], *outputs.shape[2:])
    fits = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not fits or tuple(targets.shape) != expected:
        got = [f"{tuple(value.shape)} {value.dtype}" for value in flatten_tensors(targets)]
        raise DataError(
            f"the default metric, top-1, does not fit {where}: expected whole numbers of shape "
            f"{expected}, got {', '.join(got) or type(targets).__name__}. "
            "Define metric(outputs, targets) in the model file."
        )


def output_distance(outputs: Any, reference: Any) -> Tensor:
    """Squared distance to reference outputs, relative to their variance, averaged over tensors."""
    pairs = [
        (ours.float(), theirs.detach().float())
        for ours, theirs in zip(flatten_tensors(outputs), flatten_tensors(reference), strict=True)
        if ours.is_floating_point()
    ]
    terms = [F.mse_loss(a, b) / b.var(correction=0).clamp_min(1e-12) for a, b in pairs]
    return torch.stack(terms).mean()


def logit_distillation(outputs: Any, reference: Any, temperature: float) -> Tensor | None:
    """Kullback-Leibler divergence between softened class probabilities, times T^2 (Hinton 2015).

    None where the outputs are not one tensor of logits (B, classes).
    """
    if not (isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1):
        return None
    ours = F.log_softmax(outputs.float() / temperature, 1)
    theirs = F.log_softmax(reference.detach().float() / temperature, 1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2
