"""Finetune: the chosen plan learns as a whole network."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from lanac.compilation import Compilation, Finalist, Student
from lanac.passes.assemble import assemble_student
from lanac.passes.evaluate_plans import network_key
from lanac.training.finetune import FinetuneOptions, Finetuner
from lanac.workspace import Result, key_of

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
        options = {k: v for k, v in vars(self.options).items() if k != "checkpoint_s"}
        held_out = len(compilation.task.held_out)
        key = key_of(network_key(compilation, chosen.plan.ops), options, held_out)
        stored = compilation.workspace.get(_DONE, key)
        if stored is None:
            stored = self._finetune(compilation, student, key)
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

    def _finetune(self, compilation: Compilation, student: fx.GraphModule, key: str) -> Result:
        """Trains the student in place; returns what was stored of it."""
        finetuner = Finetuner(
            student,
            compilation.need("program").teacher,
            compilation.task,
            self.options,
            compilation.seed,
            compilation.device,
        )
        workspace = compilation.workspace
        running = workspace.get(_RUNNING, key)
        if running is not None:
            finetuner.unpack(running)
        with compilation.instruments.progress(
            "finetuning", finetuner.steps, finetuner.state.step
        ) as advance:
            state = finetuner.run(
                lambda result: workspace.replace_checkpoint(_RUNNING, key, result), advance
            )
        value = {
            "metric": state.best_metric,
            "epochs": state.epochs,
            "best_epoch": state.best_epoch,
        }
        result = Result(value, state.best)
        workspace.put(_DONE, key, result)
        workspace.discard(_RUNNING, key)
        return result
