"""Widen: where losses before finetuning say little, the best plan of each kind becomes a finalist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lanac.compilation import Compilation, Finalist
from lanac.errors import InfeasibleBudgetError, SelectionError, TrainingError
from lanac.ir import IDENTITY, TEACHER
from lanac.ops.pool import Pool, inherits
from lanac.passes.base import Pass
from lanac.passes.evaluate_plans import EvaluatePlans
from lanac.passes.time_finalists import TimeFinalists

_ROUNDS = 2


@dataclass(frozen=True)
class WidenFinalists:
    """Selects also among the ops that inherit the teacher's weights, and among those that do not.

    Near the teacher plans are in the order of their losses before finetuning. Far from it they are
    not: fresh ops, which have learned for a few steps, gain more by finetuning than narrowed ones that
    have been fitted already. The best plan of either kind that meets the budget is added, for a short
    finetuning (`TuneFinalists`) to decide.

    Attributes:
        search: finds plans.
        evaluation: evaluates them.
        timing: times the finalists among them.
        far: so many times the teacher's loss is far from it.
    """

    search: Pass
    evaluation: EvaluatePlans = field(default_factory=EvaluatePlans)
    timing: TimeFinalists = field(default_factory=TimeFinalists)
    far: float = 1.5
    name = "widen_finalists"
    needs = ("program", "pool", "costs", "scores", "weights", "finalists", "chosen")
    provides = ("finalists",)

    def run(self, compilation: Compilation) -> Compilation:
        chosen: Finalist = compilation.need("chosen")
        if chosen.loss <= self.far * chosen.teacher_loss:
            return compilation
        known = {item.plan.ops: item for item in compilation.need("finalists")}
        for pool in kinds(compilation):
            found = self._best(compilation.having(pool=pool))
            if found is not None:
                known.setdefault(found.plan.ops, found)
        added = len(known) - len(compilation.need("finalists"))
        if added:
            compilation.instruments.say(
                f"the best plan loses {chosen.loss:.3f} before finetuning, the teacher "
                f"{chosen.teacher_loss:.3f}: trying {added} more of ops of one kind alone"
            )
        return compilation.having(finalists=tuple(known.values()))

    def _best(self, apart: Compilation) -> Finalist | None:
        """The best plan of a pool that meets the budget as measured; None where none was found."""
        try:
            for _ in range(_ROUNDS):
                for step in (self.search, self.evaluation, self.timing):
                    apart = step.run(apart)
                timed: tuple[Finalist, ...] = apart.need("finalists")
                fitting = [item for item in timed if item.fits]
                if fitting:
                    return min(fitting, key=lambda item: item.loss)
        except (InfeasibleBudgetError, SelectionError, TrainingError):
            return None  # the whole pool has plans already
        return None


def kinds(compilation: Compilation) -> Iterator[Pool]:
    """The pool with inheriting ops alone, and with the others; nothing where all are of one kind."""
    pool: Pool = compilation.need("pool")
    fixed = compilation.restrictions.fixed
    for inheriting in (True, False):
        part = {
            name: tuple(
                op
                for op in ops
                if op in (TEACHER, IDENTITY, fixed.get(name)) or inherits(op) is inheriting
            )
            for name, ops in pool.items()
        }
        if part == dict(pool):
            return
        yield part
