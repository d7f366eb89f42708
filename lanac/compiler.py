"""compile(): the one place that orders the passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn
from typing_extensions import Unpack

from lanac.backends.base import BACKENDS
from lanac.beginning import Given, begin
from lanac.compilation import Compilation
from lanac.errors import BackendError, InfeasibleBudgetError
from lanac.ir import OpSpec
from lanac.ops.base import Family
from lanac.ops.own import own_families
from lanac.ops.pool import parse_pool
from lanac.passes import (
    CheckOps,
    CheckOutputs,
    CheckTraining,
    DistillCandidates,
    EmitStudent,
    EnumeratePool,
    EvaluatePlans,
    FinetuneStudent,
    MeasureCosts,
    Pass,
    PrunePool,
    RefinePlans,
    RelaxBudget,
    ScoreCandidates,
    TimeFinalists,
    TuneFinalists,
    WidenFinalists,
    run_passes,
)
from lanac.passes.check_budgets import CheckBudgets
from lanac.passes.guard_budget import GuardBudget
from lanac.passes.search_plans import SCIP, check_search, plan_search
from lanac.report.summary import write_report
from lanac.settings import Settings
from lanac.targets import Budget, Target, parse_budgets, parse_target
from lanac.training.device import cpu_threads
from lanac.training.finetune import FinetuneOptions

_TIGHTENINGS = 6
"""How often a plan set that was too slow in reality is selected anew."""


@dataclass(frozen=True)
class Result:
    """What a compilation gave: one student per budget, in the order of the budgets.

    Attributes:
        students: a Compilation each; `.student.module` is the network, `.outputs` the files and
            the proof.
        failures: budgets that cannot be met, with the reason.
    """

    students: tuple[Compilation, ...]
    failures: tuple[InfeasibleBudgetError, ...] = field(default=())

    @property
    def student(self) -> Compilation:
        """The first student."""
        return self.students[0]


def compile(  # the name that users expect; nothing here needs the builtin
    model: nn.Module,
    *,
    budget: str = "0.5x",
    target: str = "cpu",
    out: str | Path = "lanac-out",
    pool: str = "default",
    ops: Sequence[Family | type[Family]] = (),
    emit: str | Sequence[str] | None = None,
    settings: Settings | None = None,
    threads: int | None = None,
    **given: Unpack[Given],
) -> Result:
    """Makes a trained network faster.

    Args:
        model: the trained teacher.
        budget: `0.5x`, `12ms`, `params=5M`, `flops=0.6x`; joined by `+` where all must hold;
            separated by commas for one student each.
        target: `DEVICE[:RUNTIME][:PRECISION][:bN][:tN]`.
        out: folder for the students; belongs to one teacher.
        pool: pool names, families and ops, separated by commas.
        ops: your own op families, objects or classes, for this run alone; those that `pool` does not
            name join it.
        emit: names of the outputs; default: pytorch, onnx, and what the target's runtime runs.
        settings: how much work goes into it.
        threads: CPU threads that training and scoring take in this process; default: torch's own number.
            Latencies are measured on the target's.
        given: the further arguments of `begin`: `train_data`, which has to be there, `val_data`,
            `loss`, `metric` and so on.

    Returns:
        The students, one per budget, emitted, verified and measured.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    settings = settings or Settings()
    # Whatever can be refused is refused before any work is done.
    check_search(settings.search)
    budgets, outputs = (
        parse_budgets(budget),
        parse_outputs(emit, parse_target(target)),
    )
    with prepare(
        model,
        budget=budget,
        budgets=budgets,
        target=target,
        out=out,
        pool=pool,
        ops=ops,
        settings=settings,
        threads=threads,
        outputs=outputs,
        **given,
    ) as prepared:
        return _students(prepared, budgets, outputs, settings)


@contextlib.contextmanager
def prepare(
    model: nn.Module,
    *,
    budget: str,
    budgets: Sequence[Budget] = (),
    target: str,
    out: str | Path,
    pool: str,
    ops: Sequence[Family | type[Family]],
    settings: Settings,
    threads: int | None,
    outputs: Sequence[str] = ("pytorch",),
    **given: Unpack[Given],
) -> Iterator[Compilation]:
    """A teacher from `begin` to scores; nobody else works in its folder until the caller is done.

    Until then torch has `threads` threads.

    Args:
        budget: says what has to be measured.
        budgets: those that have to be possible before anything is trained.
        outputs: names of the outputs that a student has to have.

    The other arguments are those of `compile`.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    families = own_families(ops)
    members = parse_pool(pool, families)
    with cpu_threads(threads):
        begun = begin(
            model,
            budget=budget,
            target=target,
            out=out,
            ops=families,
            held_out=settings.held_out,
            **given,
        )
        with begun.workspace.lock("run", f"is working in {out}"):
            yield run_passes(begun, preparation(members, budgets, settings, outputs))


def preparation(
    members: Sequence[OpSpec | Family],
    budgets: Sequence[Budget],
    settings: Settings,
    outputs: Sequence[str] = ("pytorch",),
) -> list[Pass]:
    """The passes that all students of a teacher share, in order: pool to scores."""
    return [
        CheckOutputs(tuple(outputs)),
        CheckTraining(),
        EnumeratePool(tuple(members)),
        CheckOps(as_source="pytorch" in outputs),
        MeasureCosts(),
        PrunePool(),
        CheckBudgets(tuple(budgets)),
        DistillCandidates(settings.distill_samples, max(1, settings.batch_size // 2)),
        ScoreCandidates(settings.score_samples, settings.batch_size),
    ]


def _students(
    prepared: Compilation, budgets: Sequence[Budget], outputs: tuple[str, ...], settings: Settings
) -> Result:
    """One student per budget from one preparation; a budget that fails does not stop the others."""
    students: list[Compilation] = []
    failures: list[InfeasibleBudgetError] = []
    for budget in budgets:
        compilation = replace(prepared, budget=budget)
        try:
            chosen = choose_plan(compilation, settings)
        except InfeasibleBudgetError as error:
            failures.append(error)
            prepared.instruments.warn(str(error))
            continue
        options = FinetuneOptions(
            settings.finetune_epochs, settings.batch_size, settings.learning_rate
        )
        last: list[Pass] = [FinetuneStudent(options), EmitStudent(outputs)]
        finished = run_passes(chosen, last)
        write_report(finished)
        students.append(finished)
    if not students:
        raise failures[0]
    return Result(tuple(students), tuple(failures))


def choose_plan(compilation: Compilation, settings: Settings) -> Compilation:
    """Selects, evaluates and times plans until one meets the budget as measured.

    Where it leaves much of the budget, plans are selected again. Then better ones are looked for
    around the best, and, where all are far from the teacher, among ops of one kind alone. The finalists
    that meet the budget are finetuned for a few steps before one of them is chosen.

    Raises:
        InfeasibleBudgetError: no plan meets it, predicted or measured.
    """
    evaluation = EvaluatePlans(settings.evaluate_images, finalists=settings.finalists)
    search = plan_search(settings.search, settings.plans, settings.search_evaluations)
    passes: list[Pass] = [search, evaluation, TimeFinalists()]
    compilation = run_passes(compilation, [GuardBudget()])
    for _ in range(_TIGHTENINGS):
        compilation = run_passes(compilation, passes)
        if compilation.chosen is not None:
            return run_passes(compilation, _last_choice(search, evaluation, settings))
    raise InfeasibleBudgetError(
        f"budget {compilation.budget}: after {_TIGHTENINGS} rounds of tightening every finalist was "
        "still measured above it; the machine may be too busy to measure, or the budget too small"
    )


def _last_choice(search: Pass, evaluation: EvaluatePlans, settings: Settings) -> list[Pass]:
    """What looks for something better than the first plan that meets the budget."""
    refining: list[Pass] = [RefinePlans(settings.refine, evaluation=evaluation), TimeFinalists()]
    options = FinetuneOptions(
        batch=settings.batch_size,
        learning_rate=settings.learning_rate,
        steps=settings.finalist_steps,
    )
    tuning: list[Pass] = [TuneFinalists(options, settings.finalists)]
    tunes = min(settings.finetune_epochs, settings.finalist_steps) > 0
    # What another search than SCIP finds stays what it found.
    is_ours = settings.search == SCIP
    relaxing: list[Pass] = [RelaxBudget(search, evaluation)]
    widening: list[Pass] = [WidenFinalists(search, evaluation)]
    return (
        relaxing * is_ours
        + refining * (is_ours and settings.refine > 0)
        + widening * (is_ours and tunes)
        + tuning * tunes
    )


def parse_outputs(emit: str | Sequence[str] | None, target: Target) -> tuple[str, ...]:
    """Reads `--emit`; raises BackendError for an unknown output, or one that cannot be written."""
    if emit is None:
        names = ["pytorch", "onnx"]
        names += [target.runtime] if target.runtime in set(BACKENDS.names()) - set(names) else []
    else:
        names = emit.split(",") if isinstance(emit, str) else list(emit)
        names = [name.strip() for name in names if name.strip()]
    if not names:
        raise BackendError(f"no output is asked for; known: {', '.join(BACKENDS.names())}")
    for name in names:
        reason = BACKENDS.get(name).unavailable(target)
        if reason is not None:
            raise BackendError(f"output {name!r} cannot be written here: {reason}")
    return tuple(dict.fromkeys(names))
