"""Table 5 of the paper for the user's own model: ways of finding plans, at one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lanac.comparison.finetuned import EqualFinetuning
from lanac.compilation import Compilation, Finalist
from lanac.passes import EvaluatePlans, SelectPlans, TimeFinalists, run_passes
from lanac.passes.plan_judge import PlanJudge, cost_clock
from lanac.passes.search_plans import SCIP, Found, SearchPlans
from lanac.passes.select_plans import selection_problem, to_plan
from lanac.search import Choices, SearchOptions, Space
from lanac.settings import ComparisonSettings, Settings
from lanac.targets import LATENCY
from lanac.workspace import Result, key_of

_COMPARED = "compared search"


@dataclass(frozen=True)
class MethodRow:
    """What one method found.

    Attributes:
        method: its name.
        evaluations: plans judged while searching, or gradient steps; 0 for scip.
        search_seconds: what the search cost: CPU-seconds, wall on a GPU.
        plans: how many plans it gave.
        evaluate_seconds: what choosing among these cost, the same way for all methods.
        finalist: its plan with the lowest loss before finetuning; with its measured latency, where
            the budget limits latency.
        metric: on the validation data, after equal finetuning.
    """

    method: str
    evaluations: int
    search_seconds: float
    plans: int
    evaluate_seconds: float
    finalist: Finalist
    metric: float

    @property
    def seconds(self) -> float:
        """From the prepared pool to one plan."""
        return self.search_seconds + self.evaluate_seconds


@dataclass(frozen=True)
class MethodTable:
    """Methods at equal budget and equal finetuning.

    Attributes:
        prepared: what they searched in.
        rows: one per method.
        finetuning: how every plan was finetuned.
        teacher_metric: the teacher's, on the validation data.
    """

    prepared: Compilation
    rows: tuple[MethodRow, ...]
    finetuning: EqualFinetuning
    teacher_metric: float


def compare_methods(
    prepared: Compilation,
    methods: Sequence[str],
    settings: Settings,
    comparison: ComparisonSettings,
) -> MethodTable:
    """Finds plans by every method, chooses, times and finetunes them alike.

    Args:
        prepared: with scores; its budget is the one that all methods keep.
        methods: names of searches.
        settings: K, evaluations, images and finetuning.
        comparison: the rest.

    Raises:
        InfeasibleBudgetError: no plan meets the budget.
    """
    finetuning = EqualFinetuning.of(settings, comparison)
    rows = [_row(prepared, method, settings, comparison) for method in methods]
    if LATENCY in prepared.budget.resources:
        timed = TimeFinalists().time(prepared, [row.finalist for row in rows])
        rows = [replace(row, finalist=item) for row, item in zip(rows, timed, strict=True)]
    rows = [replace(row, metric=finetuning.metric(prepared, row.finalist)) for row in rows]
    return MethodTable(prepared, tuple(rows), finetuning, finetuning.teacher_metric(prepared))


def _row(
    prepared: Compilation, method: str, settings: Settings, comparison: ComparisonSettings
) -> MethodRow:
    """A method's plan and what finding it cost, without finetuning; kept in the workspace."""
    judge = PlanJudge(prepared, comparison.search_images, settings.batch_size)
    key = key_of(
        method, judge.pool_key, selection_problem(prepared, settings.plans, 1.0),
        settings.search_evaluations, comparison.search_images, settings.evaluate_images,
        settings.batch_size,
    )  # fmt: skip
    stored = prepared.workspace.get(_COMPARED, key)
    if stored is None:
        row, choices = _searched(prepared, method, settings, comparison)
        finalist = row.finalist
        value = {name: getattr(row, name) for name in _STORED} | {
            "choices": choices, "loss": finalist.loss, "teacher_loss": finalist.teacher_loss,
            "images": finalist.images,
        }  # fmt: skip
        prepared.workspace.put(_COMPARED, key, Result(value))
        return row
    value = stored.value
    choices = tuple(value["choices"])
    problem = selection_problem(prepared, 1, 1.0)
    plan = to_plan(prepared, Space(problem, choices).verified(choices))
    finalist = Finalist(
        plan, value["loss"], value["teacher_loss"], value["images"], costs=plan.costs
    )
    return MethodRow(
        **{name: value[name] for name in _STORED}, finalist=finalist, metric=float("nan")
    )


_STORED = ("method", "evaluations", "search_seconds", "plans", "evaluate_seconds")


def _searched(
    prepared: Compilation, method: str, settings: Settings, comparison: ComparisonSettings
) -> tuple[MethodRow, Choices]:
    found = _find(prepared, method, settings, comparison)
    clock = cost_clock(prepared.device)
    began = clock()
    # Not from the last search's judgements: their images are the first of these.
    evaluated = run_passes(
        prepared.having(plans=found.plans), [EvaluatePlans(settings.evaluate_images, finalists=1)]
    )
    seconds = clock() - began
    best: Finalist = evaluated.need("finalists")[0]
    best = replace(best, costs=best.plan.costs)
    pool = prepared.need("pool")
    slots = prepared.need("program").slots
    choices = tuple(
        pool[slot.name].index(op) for slot, op in zip(slots, best.plan.ops, strict=True)
    )
    row = MethodRow(
        method, found.evaluations, found.seconds, len(found.plans), seconds, best, float("nan")
    )
    return row, choices


def _find(
    prepared: Compilation, method: str, settings: Settings, comparison: ComparisonSettings
) -> Found:
    if method != SCIP:
        options = SearchOptions(settings.search_evaluations, settings.plans)
        search = SearchPlans(method, options, comparison.search_images, settings.batch_size)
        return search.search(prepared)
    clock = cost_clock(prepared.device)
    began = clock()
    plans = run_passes(prepared, [SelectPlans(settings.plans)]).need("plans")
    return Found(plans, 0, clock() - began)
