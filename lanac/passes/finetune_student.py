"""Finetune: the chosen plan learns as a whole network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import fx

from lanac.compilation import Compilation, Finalist, Student
from lanac.ir import OpSpec
from lanac.passes.assemble import assemble_student
from lanac.passes.evaluate_plans import network_key
from lanac.training.finetune import FinetuneOptions, Finetuner, FinetuneState
from lanac.workspace import Result, Workspace, key_of

_DONE, _RUNNING = "student", "finetuning"


@dataclass(frozen=True)
class FinetuneStudent:
    """Trains with the teacher's loss and towards its outputs; keeps the best epoch.

    Attributes:
        options: how to finetune.
    """

    options: FinetuneOptions = field(default_factory=FinetuneOptions)
    name = "finetune_student"
    needs = ("program", "chosen", "weights")
    provides = ("student",)

    def run(self, compilation: Compilation) -> Compilation:
        chosen: Finalist = compilation.need("chosen")
        student = assemble_student(compilation, chosen.plan.ops)
        key = finetuning_key(compilation, chosen.plan.ops, self.options)
        stored = compilation.workspace.get(_DONE, key)
        if stored is None:
            tuning = begun_finetuning(compilation, student, self.options, _RUNNING, key)
            with compilation.instruments.progress(
                "finetuning", tuning.tuner.steps, tuning.tuner.state.step
            ) as advance:
                state = tuning.run(advance)
            value = {
                "metric": state.best_metric,
                "epochs": state.epochs,
                "best_epoch": state.best_epoch,
            }
            stored = Result(value, state.best)
            compilation.workspace.put(_DONE, key, stored)
            tuning.forget()
        student = student.cpu()
        student.load_state_dict(dict(stored.tensors))
        return compilation.having(
            student=Student(
                student.eval(),
                stored.value["metric"],
                tuple(stored.value["epochs"]),
                stored.value["best_epoch"],
            )
        )


def finetuning_key(
    compilation: Compilation, ops: Sequence[OpSpec], options: FinetuneOptions
) -> str:
    """Everything that a finetuned network depends on."""
    held_out = len(compilation.task.held_out)
    return key_of(network_key(compilation, tuple(ops)), options.identity(), held_out)


@dataclass(frozen=True)
class Finetuning:
    """A finetuning with its checkpoint in the workspace."""

    tuner: Finetuner
    workspace: Workspace
    kind: str
    key: str

    def run(self, advance: Callable[[int], None]) -> FinetuneState:
        """Trains to the end; see `Finetuner.run`."""
        return self.tuner.run(
            lambda result: self.workspace.replace_checkpoint(self.kind, self.key, result), advance
        )

    def forget(self) -> None:
        """The result is stored: the checkpoint has had its use."""
        self.workspace.discard(self.kind, self.key)


def begun_finetuning(
    compilation: Compilation,
    student: fx.GraphModule,
    options: FinetuneOptions,
    kind: str,
    key: str,
) -> Finetuning:
    """A finetuning of the student, in place, from its checkpoint where there is one."""
    tuner = Finetuner(
        student,
        compilation.need("program").teacher,
        compilation.task,
        options,
        compilation.seed,
        compilation.device,
    )
    running = compilation.workspace.get(kind, key)
    if running is not None:
        tuner.unpack(running)
    return Finetuning(tuner, compilation.workspace, kind, key)
