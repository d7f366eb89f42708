from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanac.errors import TrainingError
from lanac.training import finetune
from lanac.training.finetune import (
    FinetuneOptions,
    Finetuner,
    FinetuneState,
    Measured,
    measure,
    measure_held_out,
)
from lanac.training.task import Task
from lanac.workspace import Result, Workspace

MakeTask = Callable[..., Task]
CPU = torch.device("cpu")
OPTIONS = FinetuneOptions(epochs=2, batch=4, learning_rate=0.01, norm_batches=3)


class AlwaysDue(finetune.CheckpointClock):
    """A checkpoint after every step."""

    def is_due(self) -> bool:
        return True


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def tuner(task: Task, options: FinetuneOptions = OPTIONS, seed: int = 5) -> Finetuner:
    return Finetuner(network(1), network(0), task, options, seed, CPU)


def nothing(_: Any) -> None:
    pass


def records(state: FinetuneState) -> str:
    return repr((state.step, state.epochs, state.best_metric, state.best_epoch))


class Killed(Exception):
    """Stands for a killed process."""


def run_killed_at_every_step(task: Task, workspace: Workspace) -> tuple[Finetuner, int]:
    """Every process makes one step and is killed right after its checkpoint."""
    for kills in range(1000):
        student = tuner(task)
        stored = workspace.get("checkpoint", "k")
        if stored is not None:
            student.unpack(stored)

        def store(result: Result) -> None:
            workspace.replace_checkpoint("checkpoint", "k", result)
            raise Killed

        torch.manual_seed(kills)  # what a new process draws elsewhere must not matter
        try:
            student.run(store, nothing)
        except Killed:
            continue
        return student, kills
    raise AssertionError("the run does not get on")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_run_killed_after_every_step_equals_the_undisturbed_one_bit_for_bit(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labelled: bool
) -> None:
    task = make_task(labelled)
    undisturbed = tuner(task)
    undisturbed.run(nothing, nothing)
    monkeypatch.setattr(finetune, "CheckpointClock", AlwaysDue)
    resumed, kills = run_killed_at_every_step(task, Workspace(tmp_path))
    assert kills == undisturbed.steps == 10
    assert records(resumed.state) == records(undisturbed.state)
    expected = undisturbed.student.state_dict()
    actual = resumed.student.state_dict()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_a_checkpoint_that_changes_nothing(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tuner(make_task())
    undisturbed.run(nothing, nothing)
    monkeypatch.setattr(finetune, "CheckpointClock", AlwaysDue)
    stored: list[Result] = []
    other = tuner(make_task())
    other.run(stored.append, nothing)
    assert len(stored) == other.steps
    assert records(other.state) == records(undisturbed.state)


def test_the_same_seed_gives_the_same_student_and_another_one_another(make_task: MakeTask) -> None:
    def losses(seed: int) -> list[float]:
        state = tuner(make_task(), seed=seed).run(nothing, nothing)
        return [record["loss"] for record in state.epochs[1:]]

    assert losses(5) == losses(5)
    assert losses(5) != losses(6)


def test_the_best_epoch_is_kept(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = iter([10.0, 30.0, 30.0, 20.0])
    seen: list[dict[str, Tensor]] = []

    def fake(module: nn.Module, *_: Any) -> Measured:
        seen.append(copy.deepcopy(module.state_dict()))
        return Measured(next(metrics), 0.5)

    monkeypatch.setattr(finetune, "measure_held_out", fake)
    found = tuner(make_task(), FinetuneOptions(epochs=3, batch=4))
    state = found.run(nothing, nothing)
    assert (state.best_epoch, state.best_metric) == (1, 30.0)  # the earlier of two equal ones
    assert [record["epoch"] for record in state.epochs] == [0, 1, 2, 3]
    assert [record["metric"] for record in state.epochs] == [10, 30, 30, 20]
    assert "loss" not in state.epochs[0]
    assert [record["held_out_loss"] for record in state.epochs] == [0.5] * 4
    assert all(torch.equal(seen[1][k], v) for k, v in found.student.state_dict().items())
    assert not found.student.training


def test_no_epochs_keep_what_there_was(make_task: MakeTask) -> None:
    found = tuner(make_task(), FinetuneOptions(epochs=0, batch=4))
    before = copy.deepcopy(dict(found.student.named_parameters()))
    state = found.run(nothing, nothing)
    assert state.best_epoch == 0
    for name, value in found.student.named_parameters():
        assert torch.equal(value, before[name])


def test_training_lowers_the_loss_and_leaves_the_teacher_alone(make_task: MakeTask) -> None:
    found = tuner(make_task(), FinetuneOptions(epochs=12, batch=4, learning_rate=0.05))
    before = copy.deepcopy(found.teacher.state_dict())
    state = found.run(nothing, nothing)
    losses = [record["loss"] for record in state.epochs[1:]]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.equal(v, before[k]) for k, v in found.teacher.state_dict().items())
    assert not found.teacher.training


def test_steps_are_counted(make_task: MakeTask) -> None:
    steps: list[int] = []
    found = tuner(make_task())
    found.run(nothing, steps.append)
    assert steps == [1] * found.steps
    assert found.state.step == found.steps == 2 * (20 // 4)


def test_a_loss_that_is_no_number_ends_the_run_with_advice(make_task: MakeTask) -> None:
    found = tuner(make_task())
    with torch.no_grad():
        found.student.get_parameter("6.bias").fill_(math.nan)
    with pytest.raises(TrainingError) as caught:
        found.run(nothing, nothing)
    assert str(caught.value) == (
        "the loss became nan in epoch 1 of finetuning; start again with a lower --learning-rate"
    )


def test_a_metric_that_is_no_number_is_worse_than_any_number(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = iter([math.nan, 10.0, math.nan])
    monkeypatch.setattr(finetune, "measure_held_out", lambda *_: Measured(next(metrics), math.nan))
    state = tuner(make_task()).run(nothing, nothing)
    assert (state.best_epoch, state.best_metric) == (1, 10.0)


def test_without_any_number_the_student_stays_as_it_was(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "measure_held_out", lambda *_: Measured(math.nan, math.nan))
    found = tuner(make_task(), FinetuneOptions(epochs=0, batch=4))
    found.run(nothing, nothing)
    assert torch.equal(found.student.get_parameter("0.weight"), network(1)[0].weight)


def test_frozen_weights_stay_as_they_are(make_task: MakeTask) -> None:
    student = network(1)
    student[0].weight.requires_grad_(False)
    before = student[0].weight.clone()
    found = Finetuner(student, network(0), make_task(), OPTIONS, 0, CPU)
    found.run(nothing, nothing)
    assert torch.equal(student[0].weight, before)


def test_measuring_averages_over_samples_not_batches(make_task: MakeTask) -> None:
    task = make_task(count=306)  # 300 train: batches of 256 and 44
    model = network(2).train()
    value = measure(model, model, task, task.train, CPU)
    assert not model.training
    batch = task.train.batch(range(len(task.train)))
    with torch.no_grad():
        right = (model(*batch.inputs).argmax(1) == batch.targets).float().mean()
    assert value == pytest.approx(100 * float(right))


@pytest.mark.parametrize("labelled", [True, False])
def test_metric_and_loss_of_the_held_out_samples(make_task: MakeTask, labelled: bool) -> None:
    task, model, teacher = make_task(labelled), network(2).train(), network(0).eval()
    found = measure_held_out(model, teacher, task, CPU)
    batch = task.held_out.batch(range(len(task.held_out)))
    with torch.no_grad():
        outputs, reference = model(*batch.inputs), teacher(*batch.inputs)
    assert found.metric == pytest.approx(task.metric(outputs, batch, reference))
    assert found.loss == pytest.approx(float(task.loss(outputs, batch, reference)))


@pytest.mark.parametrize(("steps", "epochs"), [(3, 1), (5, 1), (8, 2), (0, 0)])
def test_so_many_steps_instead_of_epochs(make_task: MakeTask, steps: int, epochs: int) -> None:
    counted: list[int] = []
    found = tuner(make_task(), FinetuneOptions(epochs=7, batch=4, steps=steps))  # 5 make an epoch
    state = found.run(nothing, counted.append)
    assert sum(counted) == state.step == steps
    assert [record["epoch"] for record in state.epochs] == list(range(epochs + 1))


def test_the_name_of_a_result_says_all_that_it_depends_on() -> None:
    assert FinetuneOptions(checkpoint_s=1).identity() == FinetuneOptions().identity()
    assert FinetuneOptions(steps=9).identity() == {**FinetuneOptions().identity(), "steps": 9}
