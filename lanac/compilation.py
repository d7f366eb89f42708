"""Compilation: the one value that passes extend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from lanac.backends.agreement import Agreement
from lanac.instruments import Instruments
from lanac.ir import OpSpec, Plan, Program
from lanac.ops.families import Families
from lanac.ops.pool import Pool
from lanac.ops.restrictions import Restrictions
from lanac.targets import LATENCY, Budget, CostFile, CostTable, Target, Timing
from lanac.targets.predicted import Anchor, Prediction
from lanac.training.task import Task
from lanac.workspace import Workspace


@dataclass(frozen=True)
class TrainedOp:
    """A candidate after distillation.

    Attributes:
        key: workspace key of its weights.
        error: squared feature error relative to the variance of the teacher's output (Eq. 2).
    """

    key: str
    error: float


@dataclass(frozen=True)
class Dropped:
    """An op that failed and was left out of the run.

    Attributes:
        slot: name of the slot.
        op: the op; a family without options where it fails to list its ops.
        reason: a sentence that names both.
    """

    slot: str
    op: OpSpec
    reason: str


@dataclass(frozen=True)
class Trial:
    """A short finetuning of a finalist, the same for all of them.

    Attributes:
        steps: of finetuning.
        samples: held-out training samples that the losses were measured on, batch norm frozen.
        before: loss without finetuning.
        after: loss afterwards.
    """

    steps: int
    samples: int
    before: float
    after: float


@dataclass(frozen=True)
class Finalist:
    """A plan that was evaluated, and perhaps timed, as a whole network.

    Attributes:
        plan: the plan.
        loss: its loss before finetuning, with current batch statistics.
        teacher_loss: the teacher's on the same samples.
        images: how many training samples that was measured on.
        latency: measured as a whole network, None where the budget names no latency.
        teacher_latency: the teacher's, interleaved with it.
        costs: cost by resource as measured (latency) and counted (the rest).
        fits: whether it was found to meet the budget.
        probability: of meeting the latency budget, where latencies are predicted.
        trial: its short finetuning, None where there was no need.
    """

    plan: Plan
    loss: float
    teacher_loss: float
    images: int
    latency: Timing | None = None
    teacher_latency: Timing | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    fits: bool = False
    probability: float | None = None
    trial: Trial | None = None

    @property
    def error(self) -> float:
        """How far the predicted latency is above the measured one, as a share of it."""
        return self.plan.costs[LATENCY] / self.costs[LATENCY] - 1


@dataclass(frozen=True)
class RefineRound:
    """One round of looking for better plans around the best one.

    Attributes:
        networks: how many changes of it were measured.
        plans: how many new plans were evaluated.
        before: loss of the best plan at its start.
        after: the lowest loss at its end; the same where no new plan was better.
    """

    networks: int
    plans: int
    before: float
    after: float


@dataclass(frozen=True)
class Student:
    """The finetuned network.

    Attributes:
        module: in eval mode, batch norm frozen, on the CPU.
        metric: on the held-out training samples, after the best epoch.
        epochs: one record per epoch: loss, metric.
        best_epoch: which one was kept, counted from 1; 0 where no epoch helped.
    """

    module: fx.GraphModule
    metric: float
    epochs: tuple[Mapping[str, float], ...]
    best_epoch: int


@dataclass(frozen=True)
class Outputs:
    """What was emitted, and the proof.

    Attributes:
        folder: where the files are.
        files: file names by backend.
        verified: how each output compares with the student on real inputs, by backend.
        metric, teacher_metric: on the validation data.
        latency, teacher_latency: of student and teacher in the target's runtime, interleaved in one
            run; None where the target is not here.
        untimed: why they were not timed, where they were not.
        costs, teacher_costs: by resource: counted, and latency as it was measured; what cannot be
            measured here is there as predicted, where a budget limits it.
        predictions: of student and teacher, where latency is predicted.
    """

    folder: Path
    files: Mapping[str, tuple[str, ...]]
    verified: Mapping[str, Agreement]
    metric: float
    teacher_metric: float
    latency: Timing | None
    teacher_latency: Timing | None
    costs: Mapping[str, float]
    teacher_costs: Mapping[str, float]
    predictions: tuple[Prediction, Prediction] | None = None
    untimed: str = ""

    def is_measured(self, resource: str) -> bool:
        """Whether a latency or energy is that of whole networks, measured here."""
        return resource == LATENCY and self.latency is not None

    @property
    def agreement(self) -> dict[str, float]:
        """Largest relative difference to the student on real inputs, by backend."""
        return {name: found.error for name, found in self.verified.items()}


@dataclass(frozen=True)
class Imported:
    """A cost table that the user gave.

    Attributes:
        path: where it is.
        table: what it says.
        missing: what becomes of ops that it does not have: `refuse` or `drop`.
    """

    path: Path
    table: CostFile
    missing: str


@dataclass(frozen=True)
class Compilation:
    """A frozen record of optional artifacts; a pass returns a new one with more in it.

    Attributes:
        task: data, loss and metric.
        example: example inputs of the network (2, ...), on the CPU.
        target: where the student has to be fast.
        budget: what it may cost there.
        resources: the resources that any budget of this run limits.
        workspace: results on disk.
        out: folder for what is emitted.
        device: where training runs.
        seed: everything random follows from it.
        fingerprints: hashes of the teacher's weights ("teacher"), of its graph and slots ("program")
            and of the training data ("data").
        families: the op families of this run.
        restrictions: what the user asks of every plan, beside the budget.
        anchors: networks that were measured on the target, for predictions.
        imported: the cost table that the user gave, None where there is none.
        dropped: ops that failed and were left out, in the order of failing.
        tightening: share of a limit that plans are selected for, by resource.
        refined: the rounds of refinement that were made.
        program ... outputs: the artifacts, in the order in which passes add them.
    """

    task: Task
    example: tuple[Tensor, ...]
    target: Target
    budget: Budget
    resources: tuple[str, ...]
    workspace: Workspace
    out: Path
    device: torch.device
    seed: int = 0
    instruments: Instruments = field(default_factory=Instruments)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    families: Families = field(default_factory=Families)
    restrictions: Restrictions = field(default_factory=Restrictions)
    anchors: tuple[Anchor, ...] = ()
    imported: Imported | None = None
    dropped: tuple[Dropped, ...] = ()
    program: Program | None = None
    pool: Pool | None = None
    costs: CostTable | None = None
    weights: Mapping[str, Mapping[OpSpec, TrainedOp]] | None = None
    scores: Mapping[str, Mapping[OpSpec, float]] | None = None
    tightening: Mapping[str, float] = field(default_factory=dict)
    plans: tuple[Plan, ...] | None = None
    finalists: tuple[Finalist, ...] | None = None
    chosen: Finalist | None = None
    refined: tuple[RefineRound, ...] = ()
    student: Student | None = None
    outputs: Outputs | None = None

    def need(self, artifact: str) -> Any:
        """An artifact that an earlier pass provides.

        Raises:
            RuntimeError: it is not there; the pipeline checks this before it runs a pass.
        """
        value = getattr(self, artifact)
        if value is None:
            raise RuntimeError(f"this needs {artifact!r}; run the pass that provides it first")
        return value

    def having(self, **artifacts: Any) -> Compilation:
        """The same record with more artifacts."""
        return replace(self, **artifacts)

    def dropping(self, dropped: Iterable[Dropped]) -> Compilation:
        """The same record with ops noted as dropped; each is named to who watches.

        Whether they are still in the pool is up to the pass.
        """
        new = tuple(dropped)
        for item in new:
            self.instruments.warn(f"dropped: {item.reason}")
        return replace(self, dropped=(*self.dropped, *new))

    @staticmethod
    def artifacts() -> tuple[str, ...]:
        """Names of everything that a pass may need or provide."""
        return tuple(entry.name for entry in fields(Compilation))
