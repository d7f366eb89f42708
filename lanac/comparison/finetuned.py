"""Equal finetuning: every plan that is compared learns from the same samples, as long."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lanac.compilation import Compilation, Finalist, Student
from lanac.ir import Program
from lanac.passes import FinetuneStudent, run_passes
from lanac.passes.evaluate_plans import network_key
from lanac.settings import ComparisonSettings, Settings
from lanac.training.device import on_device
from lanac.training.finetune import FinetuneOptions, measure
from lanac.workspace import Result, key_of

_METRIC = "validation metric"


@dataclass(frozen=True)
class EqualFinetuning:
    """Finetunes plans alike and measures them.

    Attributes:
        options: how; with no epochs, batch norm is estimated anew and nothing learned.
        samples: how many training samples; the same ones for every plan.
    """

    options: FinetuneOptions
    samples: int

    @classmethod
    def of(cls, settings: Settings, comparison: ComparisonSettings) -> EqualFinetuning:
        options = FinetuneOptions(
            settings.finetune_epochs, settings.batch_size, settings.learning_rate
        )
        return cls(options, comparison.finetune_samples)

    def metric(self, compilation: Compilation, finalist: Finalist) -> float:
        """The metric on the validation data after finetuning; kept in the workspace."""
        limited = self._limited(compilation).having(chosen=finalist)
        task = limited.task
        key = key_of(
            network_key(limited, finalist.plan.ops),
            self.options.identity(),
            task.val.fingerprint(),
            task.metric_name,
            len(task.held_out),
        )
        stored = compilation.workspace.get(_METRIC, key)
        if stored is None:
            student: Student = run_passes(limited, [FinetuneStudent(self.options)]).need("student")
            module = on_device(student.module, compilation.device)
            stored = Result(measure(module, self._teacher(limited), task, task.val, limited.device))
            compilation.workspace.put(_METRIC, key, stored)
        return float(stored.value)

    def teacher_metric(self, compilation: Compilation) -> float:
        """The teacher's metric on the validation data."""
        task = compilation.task
        key = key_of(compilation.fingerprints["teacher"], task.val.fingerprint(), task.metric_name)
        stored = compilation.workspace.get(_METRIC, key)
        if stored is None:
            teacher = self._teacher(compilation)
            stored = Result(measure(teacher, teacher, task, task.val, compilation.device))
            compilation.workspace.put(_METRIC, key, stored)
        return float(stored.value)

    def _teacher(self, compilation: Compilation) -> torch.nn.Module:
        program: Program = compilation.need("program")
        return on_device(program.teacher, compilation.device).eval()

    def _limited(self, compilation: Compilation) -> Compilation:
        """With fewer training samples, drawn by the seed; what was prepared stays."""
        task = compilation.task
        if self.samples >= len(task.train):
            return compilation
        generator = torch.Generator().manual_seed(compilation.seed + 29)
        indices = torch.randperm(len(task.train), generator=generator)[: self.samples].tolist()
        train = task.train.subset(sorted(indices))
        fingerprints = {**compilation.fingerprints, "data": train.fingerprint()}
        return replace(compilation, task=replace(task, train=train), fingerprints=fingerprints)
