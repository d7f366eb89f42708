"""Try: the finalists that meet the budget are finetuned for a few steps before one is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lanac.compilation import Compilation, Finalist, Trial
from lanac.errors import TrainingError
from lanac.ir import IDENTITY, TEACHER
from lanac.ops.pool import inherits
from lanac.passes.assemble import assemble_student
from lanac.passes.finetune_student import begun_finetuning, finetuning_key
from lanac.training.finetune import FinetuneOptions
from lanac.workspace import Result

_DONE, _RUNNING = "trial", "trying"


@dataclass(frozen=True)
class TuneFinalists:
    """Chooses the finalist whose loss is the lowest after a short finetuning, the same for all.

    What plans lose before finetuning and what they lose after it need not have the same order. The
    losses are those on the held-out training samples. Where one finalist alone meets the budget,
    nothing is tried.

    Attributes:
        options: how; `options.steps` says how long. 0 steps leave the choice as it is.
        most: so many of those that fit are tried, those with the lowest loss; and beyond them the best
            of each kind: of inheriting ops, of others, of both.
    """

    options: FinetuneOptions = field(default_factory=lambda: FinetuneOptions(steps=32))
    most: int = 3
    name = "tune_finalists"
    needs = ("program", "finalists", "chosen", "weights")
    provides = ("finalists", "chosen")

    def run(self, compilation: Compilation) -> Compilation:
        finalists: Sequence[Finalist] = compilation.need("finalists")
        fitting = self._tried([item for item in finalists if item.fits])
        if len(fitting) < 2 or not self.options.steps:
            return compilation
        steps = self.options.steps * len(fitting)
        tried: list[Finalist] = []
        failure: TrainingError | None = None
        with compilation.instruments.progress("trying finalists", steps) as advance:
            for item in fitting:
                try:
                    tried.append(replace(item, trial=self._trial(compilation, item, advance)))
                except TrainingError as error:
                    failure = error
                    place = finalists.index(item) + 1
                    compilation.instruments.warn(f"finalist {place} is out: {error}")
        if failure is not None and not tried:
            raise failure
        after = {item.plan.ops: item for item in tried}
        chosen = min(tried, key=lambda item: item.trial.after if item.trial else math.inf)
        return compilation.having(
            finalists=tuple(after.get(item.plan.ops, item) for item in finalists), chosen=chosen
        )

    def _tried(self, fitting: Sequence[Finalist]) -> list[Finalist]:
        ordered = sorted(fitting, key=lambda item: item.loss)
        tried = ordered[: self.most]
        seen = {_kind(item) for item in tried}
        for item in ordered[self.most :]:
            if _kind(item) not in seen:
                seen.add(_kind(item))
                tried.append(item)
        return tried

    def _trial(
        self, compilation: Compilation, item: Finalist, advance: Callable[[int], None]
    ) -> Trial:
        """A finalist's loss before and after; from the workspace where it is there.

        Raises:
            TrainingError: the loss is no number.
        """
        workspace = compilation.workspace
        key = finetuning_key(compilation, item.plan.ops, self.options)
        stored = workspace.get(_DONE, key)
        if stored is None:
            student = assemble_student(compilation, item.plan.ops)
            tuning = begun_finetuning(compilation, student, self.options, _RUNNING, key)
            advance(tuning.tuner.state.step)
            epochs = tuning.run(advance).epochs
            losses = [epoch.get("held_out_loss") for epoch in (epochs[0], epochs[-1])]
            stored = Result(losses)
            workspace.put(_DONE, key, stored)
            tuning.forget()
        else:
            advance(self.options.steps or 0)
        before, after = stored.value
        if before is None or after is None:
            raise TrainingError("its loss on the held-out samples is infinite or not a number")
        return Trial(self.options.steps or 0, len(compilation.task.held_out), before, after)


def _kind(item: Finalist) -> frozenset[bool]:
    """Which kinds of ops a plan has: inheriting ones, others, both or neither."""
    return frozenset(inherits(op) for op in item.plan.ops if op not in (TEACHER, IDENTITY))
