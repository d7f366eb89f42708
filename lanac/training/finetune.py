"""Finetuning a student with its teacher (paper, section 2.2, architecture fine-tuning)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lanac.errors import TrainingError
from lanac.training.batch_norm import re_estimate
from lanac.training.checkpoint import (
    CheckpointClock,
    pack_training,
    unpack_training,
    with_prefix,
    without_prefix,
)
from lanac.training.data import Batch, Data, in_order, shuffled
from lanac.training.device import on_device
from lanac.training.interrupt import interrupt_between_steps
from lanac.training.schedule import cosine
from lanac.training.task import Task, logit_distillation, output_distance
from lanac.workspace import Result


@dataclass(frozen=True)
class FinetuneOptions:
    """How a student is finetuned.

    Attributes:
        epochs: over the training data without the held-out part.
        batch: samples per step.
        learning_rate: peak of AdamW's learning rate; a cosine.
        weight_decay: of AdamW.
        distillation: weight of the distance to the teacher's outputs beside the loss.
        temperature: of the softened logits.
        norm_batches: batches over which batch norm is re-estimated.
        checkpoint_s: seconds between checkpoints.
        steps: so many steps instead of epochs, with a schedule of their own; None for epochs.
    """

    epochs: int = 5
    batch: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    distillation: float = 1.0
    temperature: float = 2.0
    norm_batches: int = 16
    checkpoint_s: float = 60.0
    steps: int | None = None

    def identity(self) -> dict[str, float]:
        """What the result depends on, for keys."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        del given["checkpoint_s"]
        return given


@dataclass
class FinetuneState:
    """What a checkpoint holds beside the weights.

    Attributes:
        step: steps taken.
        epochs: one record per finished epoch.
        best: state of the best epoch so far, batch norm re-estimated.
        best_metric: its metric on the held-out data.
        best_epoch: counted from 1; 0 is the student before finetuning.
    """

    step: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_metric: float = -math.inf
    best_epoch: int = 0


Store = Callable[[Result], None]


class Finetuner:
    """Finetunes one student; can stop at any step and go on from a checkpoint.

    Args:
        student: changed in place; it ends with the best epoch's weights, in eval mode.
        teacher: gives the outputs to imitate.
        task: data, loss and metric.
        options: how.
        seed: order of the samples, augmentation and dropout follow from it.
        device: where to train.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        task: Task,
        options: FinetuneOptions,
        seed: int,
        device: torch.device,
    ) -> None:
        self.student = student.to(device)
        self.teacher = on_device(teacher, device).eval()
        self.task, self.options, self.seed, self.device = task, options, seed, device
        self.state = FinetuneState()
        self.optimizer = torch.optim.AdamW(
            [value for value in student.parameters() if value.requires_grad],
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        self.epoch_steps = len(shuffled(len(task.train), options.batch, seed, 0))
        self.steps = options.epochs * self.epoch_steps
        if options.steps is not None:
            self.steps = options.steps

    def run(self, store: Store, advance: Callable[[int], None]) -> FinetuneState:
        """Trains to the end; `store` gets checkpoints, `advance` counts steps.

        Raises:
            KeyboardInterrupt: there was a Ctrl-C; a checkpoint has been stored.
        """
        with interrupt_between_steps() as interrupted:
            self._train(store, advance, interrupted)
        self.student.load_state_dict(self.state.best)
        self.student.eval()
        return self.state

    def _train(
        self, store: Store, advance: Callable[[int], None], interrupted: Callable[[], bool]
    ) -> None:
        clock = CheckpointClock(self.options.checkpoint_s)
        if not self.state.best:
            self._finish_epoch(0, math.nan)
        while self.state.step < self.steps:
            epoch, within = divmod(self.state.step, self.epoch_steps)
            last_loss = math.nan
            for loss in self._epoch(epoch, within):
                last_loss = loss
                self.state.step += 1
                advance(1)
                ended = self.state.step == self.steps
                within_epoch = not ended and self.state.step % self.epoch_steps != 0
                if within_epoch and (clock.is_due() or interrupted()):
                    began = time.monotonic()
                    store(self.pack())
                    clock.written(began)
                    if interrupted():
                        raise KeyboardInterrupt
                if ended:
                    break
            self._finish_epoch(epoch + 1, last_loss)
            store(self.pack())
            if interrupted():
                raise KeyboardInterrupt

    def _epoch(self, epoch: int, within: int) -> Iterator[float]:
        """The steps of one epoch from `within` on; yields each one's loss."""
        order = shuffled(len(self.task.train), self.options.batch, self.seed, epoch)
        self.student.train()
        for batch in self.task.train.batches(order[within:], self.seed + epoch):
            batch = batch.to(self.device)
            for group in self.optimizer.param_groups:
                group["lr"] = cosine(self.state.step, self.steps, self.options.learning_rate)
            # Dropout draws from the step, so that a resumed run draws the same.
            torch.manual_seed(self.seed * 1_000_003 + self.state.step)
            loss = self.loss(batch)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss became {float(loss.detach())} in epoch {epoch + 1} of finetuning; "
                    "start again with a lower --learning-rate"
                )
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            yield float(loss.detach())

    def loss(self, batch: Batch) -> Tensor:
        """What finetuning minimises: the task's loss and the distance to the teacher, a scalar."""
        with torch.no_grad():
            reference = self.teacher(*batch.inputs)
        outputs = self.student(*batch.inputs)
        loss = self.task.loss(outputs, batch, reference)
        if self.task.labelled:
            loss = loss + self.options.distillation * self._imitation(outputs, reference)
        return loss

    def _imitation(self, outputs: Any, reference: Any) -> Tensor:
        softened = logit_distillation(outputs, reference, self.options.temperature)
        return softened if softened is not None else output_distance(outputs, reference)

    def _finish_epoch(self, epoch: int, loss: float) -> None:
        """Measures the student with re-estimated batch norm and keeps it where it is the best."""
        candidate = copy.deepcopy(self.student)
        self.re_estimate(candidate)
        found = measure_held_out(candidate, self.teacher, self.task, self.device)
        metric, record = found.metric, {"epoch": epoch, "metric": found.metric}
        # Before the first step there is no loss, and JSON has no word for a missing number.
        losses = {"loss": loss, "held_out_loss": found.loss}
        record |= {name: value for name, value in losses.items() if math.isfinite(value)}
        self.state.epochs.append(record)
        best = self.state.best_metric if self.state.best else math.nan
        if metric > best or math.isnan(best):  # NaN is above nothing, and anything is above NaN
            self.state.best_metric, self.state.best_epoch = metric, epoch
            self.state.best = {k: v.detach().clone() for k, v in candidate.state_dict().items()}

    def re_estimate(self, module: nn.Module) -> None:
        """Batch norm from training data, frozen (DESIGN: never a training-mode batch norm)."""
        order = shuffled(len(self.task.train), self.options.batch, self.seed, 10_000)
        batches = self.task.train.batches(order[: self.options.norm_batches], self.seed)
        re_estimate(module, (batch.to(self.device) for batch in batches))

    def pack(self) -> Result:
        """Everything a resumed run needs."""
        state = self.state
        value = {
            "step": state.step,
            "epochs": state.epochs,
            "best_metric": state.best_metric,
            "best_epoch": state.best_epoch,
        }
        tensors = pack_training(self.student, self.optimizer) | with_prefix(state.best, "best.")
        return Result(value, tensors)

    def unpack(self, stored: Result) -> None:
        """Goes on from what `pack` gave."""
        unpack_training(stored.tensors, self.student, self.optimizer)
        self.state = FinetuneState(**stored.value, best=without_prefix(stored.tensors, "best."))


class Measured(NamedTuple):
    """Metric and loss of a network, averaged over samples."""

    metric: float
    loss: float


def measure_held_out(
    module: nn.Module, teacher: nn.Module, task: Task, device: torch.device
) -> Measured:
    """Metric and loss of a network in eval mode on the held-out training samples."""
    functions = (task.metric, task.loss)
    return Measured(*_averages(module, teacher, task, task.held_out, device, functions))


def measure(
    module: nn.Module, teacher: nn.Module, task: Task, data: Data, device: torch.device
) -> float:
    """The metric of a network in eval mode, averaged over the samples."""
    return _averages(module, teacher, task, data, device, (task.metric,))[0]


@torch.no_grad()
def _averages(
    module: nn.Module,
    teacher: nn.Module,
    task: Task,
    data: Data,
    device: torch.device,
    functions: Sequence[Callable[[Any, Batch, Any], Any]],
) -> list[float]:
    """Means over the samples of functions of outputs, batch and the teacher's outputs."""
    module.eval()
    totals, count = [0.0] * len(functions), 0
    for batch in data.batches(in_order(len(data), 256), 0):
        batch = batch.to(device)
        reference = None if task.labelled else teacher(*batch.inputs)
        outputs = module(*batch.inputs)
        for place, function in enumerate(functions):
            totals[place] += float(function(outputs, batch, reference)) * len(batch)
        count += len(batch)
    return [total / count for total in totals]
