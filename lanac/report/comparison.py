"""Comparisons for people, as tables, and for programs, as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lanac.comparison import BudgetRanking, Judged, MethodRow, MethodTable, PoolTable, Ranking
from lanac.comparison.finetuned import EqualFinetuning
from lanac.compilation import Compilation, Finalist
from lanac.targets import LATENCY, TITLES, format_cost
from lanac.version import __version__

SCHEMA = 1
"""Version of the JSON; it grows when a key changes its meaning or goes away."""

Comparison = MethodTable | Ranking | PoolTable


def show_comparison(console: Console, comparison: Comparison) -> None:
    """A table, and what its figures mean."""
    if isinstance(comparison, MethodTable):
        _show_methods(console, comparison)
    elif isinstance(comparison, Ranking):
        _show_ranking(console, comparison)
    else:
        _show_pools(console, comparison)


def record(comparison: Comparison) -> str:
    """A comparison as JSON; what is infinite or no number is null."""
    prepared = comparison.prepared
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "lanac": __version__,
        "target": str(prepared.target),
        "budget": str(prepared.budget),
        "seed": prepared.seed,
        "teacher": dict(prepared.need("costs").teacher),
    }
    if isinstance(comparison, Ranking):
        return json.dumps(value | _ranking_record(comparison), indent=2)
    value |= {
        "metric": prepared.task.metric_name,
        "teacher_metric": _number(comparison.teacher_metric),
        "finetuning": {
            "epochs": comparison.finetuning.options.epochs,
            "samples": _samples(prepared, comparison.finetuning),
            "learning_rate": comparison.finetuning.options.learning_rate,
        },
    }
    if isinstance(comparison, MethodTable):
        rows = [_method_record(prepared, row) for row in comparison.rows]
        return json.dumps(value | {"table": "methods", "rows": rows}, indent=2)
    rows = [
        {
            "size": row.size,
            "ops": row.ops,
            "magnitude": row.magnitude,
            "losses": [_number(loss) for loss in row.losses()],
            "metrics": [_number(metric) for metric in row.metrics],
            "infeasible": row.infeasible,
            "plans": [_plan_record(prepared, item) for item in row.finalists],
        }
        for row in comparison.rows
    ]
    return json.dumps(value | {"table": "pools", "rows": rows}, indent=2)


def _show_methods(console: Console, comparison: MethodTable) -> None:
    prepared = comparison.prepared
    resource = prepared.budget.resources[0]
    table = Table(title=f"ways of finding plans, {prepared.budget} on {prepared.target}", box=None)
    for name in (
        "method", "judged", "seconds", "loss before", _metric_title(prepared), TITLES[resource], "",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in comparison.rows:
        cost = row.finalist.costs[resource]
        share = cost / prepared.need("costs").teacher[resource]
        table.add_row(
            row.method,
            str(row.evaluations),
            f"{row.seconds:.1f}",
            f"{row.finalist.loss:.4f}",
            f"{row.metric:.2f}",
            format_cost(resource, cost),
            f"{share:.3f}x",
        )
    console.print(table)
    first = comparison.rows[0].finalist
    how = f"{prepared.need('costs').how[resource]}, added up over ops"
    if resource == LATENCY and first.latency is not None:
        how = "of whole networks, measured interleaved"
    lines = [
        f"the teacher: loss {first.teacher_loss:.4f}, {_metric_title(prepared)} "
        f"{comparison.teacher_metric:.2f}",
        "judged: plans judged in the search, or gradient steps. seconds: CPU time (wall time on a "
        "GPU) from the prepared pool to one plan; the same "
        f"choice among up to {max(row.plans for row in comparison.rows)} plans, on "
        f"{first.images} training samples, is part of it",
        f"loss before: before finetuning. {_metric_title(prepared)}: "
        f"{_finetuned(prepared, comparison.finetuning)}. {TITLES[resource]}: {how}",
    ]
    _explain(console, lines)


def _show_ranking(console: Console, comparison: Ranking) -> None:
    table = Table(
        title=f"measured losses at several budgets of {TITLES[comparison.resource]}", box=None
    )
    counts = sorted({count for budget in comparison.budgets for count in budget.best})
    names = ["budget", "drawn", "median", "best drawn", *(f"best of K={k}" for k in counts)]
    for name in names:
        table.add_column(name, justify="right")
    for budget in comparison.budgets:
        losses = [item.loss for item in budget.drawn]
        table.add_row(
            f"{budget.ratio:.3f}x",
            str(len(losses)),
            *(f"{value:.4f}" for value in (statistics.median(losses), min(losses))),
            *(f"{budget.best[count]:.4f}" if count in budget.best else "" for count in counts),
        )
    console.print(table)
    drawn = sum(len(budget.drawn) for budget in comparison.budgets)
    selected = sum(len(budget.selected) for budget in comparison.budgets)
    lines = [
        f"Kendall's tau between predicted and measured loss: {comparison.tau_drawn:.3f} over "
        f"{drawn} drawn plans, {comparison.tau_selected:.3f} over {selected} plans that SCIP "
        "selected",
        f"the teacher's loss is {comparison.teacher_loss:.4f}. All losses are before finetuning, on "
        f"{comparison.images} training samples. drawn: evenly from plans that keep the budget and use it. "
        "best of K: of SCIP's first K diverse plans",
    ]
    _explain(console, lines)


def _show_pools(console: Console, comparison: PoolTable) -> None:
    prepared = comparison.prepared
    table = Table(title=f"pools of several sizes, {prepared.budget} on {prepared.target}", box=None)
    metric = _metric_title(prepared)
    for name in ("ops per slot", "ops", "plans", "pools", "loss before", metric, "deviation"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        pools = len(row.finalists) + row.infeasible
        shown = [str(row.size or "all"), f"{row.ops:.0f}", f"10^{row.magnitude:.1f}", str(pools)]
        if row.finalists:
            loss, mean = statistics.mean(row.losses()), statistics.mean(row.metrics)
            shown += [f"{loss:.4f}", f"{mean:.2f}"]
        else:
            shown += ["no plan", ""]
        several = len(row.metrics) > 1
        shown.append(f"{statistics.stdev(row.metrics):.2f}" if several else "")
        table.add_row(*shown)
    console.print(table)
    missed = [
        f"{row.infeasible} of {row.infeasible + len(row.finalists)} pools with at most {row.size} "
        "ops per slot cannot meet the budget"
        for row in comparison.rows
        if row.infeasible
    ]
    lines = [
        f"the teacher: {metric} {comparison.teacher_metric:.2f}",
        f"{metric}: {_finetuned(prepared, comparison.finetuning)}; means over pools, "
        "with their standard deviation. ops: of all slots together. plans: how many there are",
        *missed,
    ]
    _explain(console, lines)


def _explain(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"[dim]{line}[/]", highlight=False)


def _metric_title(prepared: Compilation) -> str:
    return prepared.task.metric_name


def _samples(prepared: Compilation, finetuning: EqualFinetuning) -> int:
    return min(finetuning.samples, len(prepared.task.train))


def _finetuned(prepared: Compilation, finetuning: EqualFinetuning) -> str:
    epochs = finetuning.options.epochs
    where = f"on {len(prepared.task.val):,} validation samples"
    if epochs == 0:
        return f"{where}, without finetuning"
    plural = "" if epochs == 1 else "s"
    return (
        f"{where} after {epochs} epoch{plural} of finetuning on {_samples(prepared, finetuning):,} "
        "training samples, the same ones for all"
    )


def _method_record(prepared: Compilation, row: MethodRow) -> dict[str, Any]:
    item = row.finalist
    timing = item.latency
    return {
        "method": row.method,
        "evaluations": row.evaluations,
        "search_seconds": row.search_seconds,
        "plans": row.plans,
        "evaluate_seconds": row.evaluate_seconds,
        "loss": _number(item.loss),
        "teacher_loss": _number(item.teacher_loss),
        "images": item.images,
        "metric": _number(row.metric),
        "measured_latency": None
        if timing is None or item.teacher_latency is None
        else {
            "median_ms": timing.median_ms,
            "teacher_median_ms": item.teacher_latency.median_ms,
            "ratio": timing.median_ms / item.teacher_latency.median_ms,
        },
        "plan": _plan_record(prepared, item),
    }


def _plan_record(prepared: Compilation, item: Finalist) -> dict[str, Any]:
    names = [slot.name for slot in prepared.need("program").slots]
    return {
        "score": item.plan.score,
        "costs": dict(item.plan.costs),
        "ops": dict(zip(names, map(str, item.plan.ops), strict=True)),
    }


def _ranking_record(comparison: Ranking) -> dict[str, Any]:
    return {
        "table": "ranking",
        "resource": comparison.resource,
        "images": comparison.images,
        "teacher_loss": _number(comparison.teacher_loss),
        "tau_drawn": _number(comparison.tau_drawn),
        "tau_selected": _number(comparison.tau_selected),
        "budgets": [_budget_record(budget, comparison.resource) for budget in comparison.budgets],
    }


def _budget_record(budget: BudgetRanking, resource: str) -> dict[str, Any]:
    return {
        "ratio": budget.ratio,
        "drawn": [_judged_record(item, resource) for item in budget.drawn],
        "selected": [_judged_record(item, resource) for item in budget.selected],
        "best": {str(count): _number(loss) for count, loss in budget.best.items()},
    }


def _judged_record(item: Judged, resource: str) -> dict[str, Any]:
    return {
        "score": item.plan.score,
        "loss": _number(item.loss),
        "cost": item.plan.costs[resource],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
