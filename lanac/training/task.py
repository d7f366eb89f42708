"""The task: what the outputs are measured by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lanac.errors import DataError, first_line
from lanac.ir import named_tensors
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
            return F.cross_entropy(_alone(outputs), batch.targets)
        except Exception as error:  # whatever the user's loss raises; any batch can have bad labels
            raise DataError(self._misfit(outputs, batch, error)) from error

    def metric(self, outputs: Any, batch: Batch, teacher_outputs: Any) -> float:
        """Mean metric over the batch; top-1 in percent by default.

        Without labels it is the agreement with the teacher in percent: for one tensor of class
        scores (B, classes, ...) the share of places where the largest one is the same, for other
        outputs the share of the teacher's variance that is met.
        """
        if self.user_metric is not None and self.labelled:
            return float(self.user_metric(outputs, batch.targets))
        main = _tensors(outputs)[0]
        if self.labelled:
            return 100 * float((main.argmax(1) == batch.targets).float().mean())
        theirs = _tensors(teacher_outputs)
        if len(theirs) > 1 or main.dim() < 2 or main.shape[1] < 2:
            return 100 * max(0.0, 1 - float(output_distance(outputs, teacher_outputs)))
        return 100 * float((main.argmax(1) == theirs[0].argmax(1)).float().mean())

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
            _check_top_1(_tensors(outputs)[0], batch.targets, where)
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
        got = [f"{tuple(value.shape)} {value.dtype}" for value in _tensors(outputs)]
        labels = _tensors(batch.targets)
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


def check_outputs(outputs: Any, of_one: Any, where: str) -> None:
    """Looks at what the teacher returns before anything is built on it.

    Args:
        outputs: for several samples.
        of_one: for one sample.
        where: what the samples are, for messages.

    Raises:
        DataError: there is no tensor to imitate, the structure depends on the batch, or a value is
            no number.
    """
    tensors, of_one_names = named_tensors(outputs), [name for name, _ in named_tensors(of_one)]
    names = [name for name, _ in tensors]
    if names != of_one_names:
        raise DataError(
            f"the model returns other outputs for several samples ({_some(names)}) than for one "
            f"({_some(of_one_names)}), on {where}. Detectors that select boxes image by image do "
            "that; they cannot be compiled as a whole. Compile the part that returns the same "
            "tensors for any batch: the detector's backbone (model.backbone), perhaps with its head."
        )
    if not any(tensor.is_floating_point() for _, tensor in tensors):
        got = ", ".join(f"{name}: {tensor.dtype}" for name, tensor in tensors)
        raise DataError(
            f"the model returns {got or type(outputs).__name__} on {where}; expected tensors of "
            "floating point numbers, alone or in tuples, lists, dicts, NamedTuples or dataclasses. "
            "Return scores instead of the classes or boxes that follow from them."
        )
    for name, tensor in tensors:
        broken = tensor.numel() - int(torch.isfinite(tensor).sum())
        if broken:
            raise DataError(
                f"the teacher's output {name!r} of shape {tuple(tensor.shape)} has {broken} values "
                f"that are NaN or infinite, on {where}; expected finite numbers. Check the weights "
                "that model() loads and the normalisation of the inputs."
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + ", ..." * (len(names) > 4) or "no tensor"


def _tensors(outputs: Any) -> list[Tensor]:
    return [tensor for _, tensor in named_tensors(outputs)]


def _alone(outputs: Any) -> Any:
    """The one tensor of the outputs, also where it stands in a dict; else the outputs themselves."""
    tensors = _tensors(outputs)
    return tensors[0] if len(tensors) == 1 else outputs


def _reason(error: Exception) -> str:
    """The first line of an error, with its kind where that says more."""
    first = first_line(error)
    return (
        first
        if isinstance(error, (IndexError, RuntimeError))
        else f"{type(error).__name__}: {first}"
    )


def _check_top_1(outputs: Tensor, targets: Any, where: str) -> None:
    expected = (*outputs.shape[:1], *outputs.shape[2:])
    fits = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not fits or tuple(targets.shape) != expected:
        got = [f"{tuple(value.shape)} {value.dtype}" for value in _tensors(targets)]
        raise DataError(
            f"the default metric, top-1, does not fit {where}: expected whole numbers of shape "
            f"{expected}, got {', '.join(got) or type(targets).__name__}. "
            "Define metric(outputs, targets) in the model file."
        )


def output_distance(outputs: Any, reference: Any) -> Tensor:
    """Squared distance to reference outputs, relative to their variance, averaged over tensors."""
    pairs = [
        (ours.float(), theirs.detach().float())
        for ours, theirs in zip(_tensors(outputs), _tensors(reference), strict=True)
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
