"""Table 5 of the paper for the user's own model: ways of finding plans, at one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lanac.comparison.finetuned import EqualFinetuning
from lanac.compilation import Compilation, Finalist
from lanac.passes import EvaluatePlans, SelectPlans, TimeFinalists, run_passes
from lanac.passes.latency_costs import untimed
from lanac.passes.plan_judge import PlanJudge, cost_clock
from lanac.passes.search_plans import SCIP, Found, SearchPlans
from lanac.passes.select_plans import selection_problem, to_plan
from lanac.search import SearchOptions, Space
from lanac.settings import ComparisonSettings, Settings
from lanac.targets import LATENCY
from lanac.workspace import Result, Workspace, key_of

_COMPARED = "compared search"


@dataclass(frozen=True)
class Searched:
    """What one method found, before finetuning.

    Attributes:
        method: its name.
        evaluations: plans judged while searching, or gradient steps; 0 for scip.
        search_seconds: what the search cost: CPU-seconds, wall on a GPU.
        plans: how many plans it gave.
        evaluate_seconds: what choosing among these cost, the same way for all methods.
        finalist: its plan with the lowest loss before finetuning; with its measured latency, where
            the budget limits latency and the target is here.
    """

    method: str
    evaluations: int
    search_seconds: float
    plans: int
    evaluate_seconds: float
    finalist: Finalist

    @property
    def seconds(self) -> float:
        """From the prepared pool to one plan."""
        return self.search_seconds + self.evaluate_seconds


@dataclass(frozen=True)
class MethodRow(Searched):
    """What one method found, and what became of it.

    Attributes:
        metric: on the validation data, after equal finetuning.
    """

    metric: float


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
    found = [_kept(prepared, method, settings, comparison) for method in methods]
    if LATENCY in prepared.budget.resources and untimed(prepared) is None:
        timed = TimeFinalists().time(prepared, [item.finalist for item in found])
        found = [replace(item, finalist=best) for item, best in zip(found, timed, strict=True)]
    rows = tuple(
        MethodRow(**vars(item), metric=finetuning.metric(prepared, item.finalist)) for item in found
    )
    return MethodTable(prepared, rows, finetuning, finetuning.teacher_metric(prepared))


def _kept(
    prepared: Compilation, method: str, settings: Settings, comparison: ComparisonSettings
) -> Searched:
    """A method's plan and what finding it cost; kept in the workspace."""
    judge = PlanJudge(prepared, comparison.search_images, settings.batch_size)
    key = key_of(
        method, judge.pool_key, selection_problem(prepared, settings.plans, 1.0),
        settings.search_evaluations, comparison.search_images, settings.evaluate_images,
        settings.batch_size,
    )  # fmt: skip
    stored = prepared.workspace.get(_COMPARED, key)
    if stored is None:
        searched = _searched(prepared, method, settings, comparison)
        prepared.workspace.put(_COMPARED, key, Result(_packed(prepared, searched)))
        return searched
    return _unpacked(prepared, stored.value)


def _packed(prepared: Compilation, searched: Searched) -> dict[str, Any]:
    """As plain values; the plan as choices from the pool."""
    slots, pool = prepared.need("program").slots, prepared.need("pool")
    item = searched.finalist
    choices = [pool[slot.name].index(op) for slot, op in zip(slots, item.plan.ops, strict=True)]
    finalist = [choices, item.loss, item.teacher_loss, item.images]
    return {**vars(searched), "finalist": finalist}


def _unpacked(prepared: Compilation, value: dict[str, Any]) -> Searched:
    choices, loss, teacher_loss, images = value["finalist"]
    plan = tuple(choices)
    found = Space(selection_problem(prepared, 1, 1.0), plan).verified(plan)
    item = Finalist(to_plan(prepared, found), loss, teacher_loss, images)
    return Searched(**{**value, "finalist": replace(item, costs=item.plan.costs)})


def _searched(
    prepared: Compilation, method: str, settings: Settings, comparison: ComparisonSettings
) -> Searched:
    found = _find(prepared, method, settings, comparison)
    clock = cost_clock(prepared.device)
    began = clock()
    afresh = replace(prepared, workspace=_Afresh(prepared.workspace.folder), plans=found.plans)
    evaluated = run_passes(afresh, [EvaluatePlans(settings.evaluate_images, finalists=1)])
    seconds = clock() - began
    best: Finalist = evaluated.need("finalists")[0]
    best = replace(best, costs=best.plan.costs)
    return Searched(method, found.evaluations, found.seconds, len(found.plans), seconds, best)


class _Afresh(Workspace):
    """The same workspace, but no plan has been evaluated yet: what that costs is to be seen."""

    def get(self, kind: str, key: str) -> Result | None:
        return None if kind == "plan loss" else super().get(kind, key)


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
