"""The report of one student: plan.json for programs, summary.md for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lanac.compilation import Compilation, Finalist, Outputs
from lanac.ir import TEACHER, Plan, Slot
from lanac.passes.select_plans import summed_constants, summed_limits
from lanac.targets import (
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    RESOURCES,
    TITLES,
    CostTable,
    Timing,
    format_cost,
)
from lanac.version import __version__
from lanac.workspace import disk_errors, write_atomically

SCHEMA = 2
"""Version of plan.json; it grows when a key changes its meaning, goes away, or is needed newly."""


def write_report(compilation: Compilation) -> None:
    """Writes plan.json and summary.md into the student's folder."""
    folder = compilation.need("outputs").folder
    plan = json.dumps(plan_record(compilation), indent=2) + "\n"
    with disk_errors(folder):
        write_atomically(folder / "plan.json", plan.encode())
        write_atomically(folder / "summary.md", summary(compilation).encode())


def plan_record(compilation: Compilation) -> dict[str, Any]:
    """The plan and every figure about it as plain values; `parse_op` reads the ops back."""
    chosen, outputs = compilation.need("chosen"), compilation.need("outputs")
    slots: tuple[Slot, ...] = compilation.need("program").slots
    costs, scores = compilation.need("costs"), compilation.need("scores")
    student, finalists = compilation.need("student"), compilation.need("finalists")
    return {
        "schema": SCHEMA,
        "lanac": __version__,
        "teacher": compilation.fingerprints["teacher"],
        "target": str(compilation.target),
        "budget": str(compilation.budget),
        "seed": compilation.seed,
        "slots": [
            {
                "slot": slot.name,
                "input": str(slot.input_spec),
                "output": str(slot.output_spec),
                "op": str(op),
                "score": scores[slot.name][op],
                "costs": {name: costs.costs[name][slot.name][op] for name in costs.costs},
                "teacher_costs": {
                    name: costs.costs[name][slot.name][TEACHER] for name in costs.costs
                },
                "pool": [
                    {
                        "op": str(other),
                        "score": scores[slot.name][other],
                        "costs": {
                            name: costs.costs[name][slot.name][other] for name in costs.costs
                        },
                    }
                    for other in compilation.need("pool")[slot.name]
                ],
            }
            for slot, op in zip(slots, chosen.plan.ops, strict=True)
        ],
        "cost_sources": dict(costs.how),
        "limits": summed_limits(compilation),
        "constants": summed_constants(costs),
        "fixed": {name: str(op) for name, op in compilation.restrictions.fixed.items()},
        "max_changed": compilation.restrictions.max_changed,
        "finalists": [_finalist(item, item.plan.ops == chosen.plan.ops) for item in finalists],
        "refined": [dict(vars(item)) for item in compilation.refined],
        "predicted": _predicted(chosen.plan),
        "proven_gap": chosen.plan.gap,
        "before_finetuning": {
            "loss": chosen.loss,
            "teacher_loss": chosen.teacher_loss,
            "images": chosen.images,
        },
        "finetuning": {"epochs": list(student.epochs), "best_epoch": student.best_epoch},
        "metric": {
            "name": compilation.task.metric_name,
            "student": outputs.metric,
            "teacher": outputs.teacher_metric,
            "samples": len(compilation.task.val),
        },
        "measured": {
            "latency": _timing(outputs.latency),
            "teacher_latency": _timing(outputs.teacher_latency),
            "costs": dict(outputs.costs),
            "teacher_costs": dict(outputs.teacher_costs),
        },
        "files": {name: list(files) for name, files in outputs.files.items()},
        "agreement": dict(outputs.agreement),
        "own_ops": {name: own.where for name, own in compilation.families.own.items()},
        "dropped": [
            {"slot": item.slot, "op": str(item.op), "reason": item.reason}
            for item in compilation.dropped
        ],
    }


def _finalist(item: Finalist, chosen: bool) -> dict[str, Any]:
    return {
        "chosen": chosen,
        "ops": [str(op) for op in item.plan.ops],
        "predicted": _predicted(item.plan),
        "loss": item.loss,
        "teacher_loss": item.teacher_loss,
        "images": item.images,
        "latency": _timing(item.latency) if item.latency is not None else None,
        "meets_budget": item.fits,
        "trial": dict(vars(item.trial)) if item.trial is not None else None,
    }


def _predicted(plan: Plan) -> dict[str, Any]:
    """`refined_score` is by scores around another plan, `score` by those in the teacher."""
    return {
        "score": plan.score,
        "refined_score": plan.refined_score,
        "costs": dict(plan.costs),
    }


def _timing(timing: Timing) -> dict[str, float]:
    return dict(vars(timing))


def result_rows(compilation: Compilation) -> list[tuple[str, str, str, str]]:
    """(what, teacher, student, ratio) of every figure, with where it comes from."""
    outputs: Outputs = compilation.need("outputs")
    task = compilation.task
    percent = " %" if task.user_metric is None else ""
    rows = []
    times = str(outputs.teacher_latency), str(outputs.latency)
    ratio = f"{outputs.latency.median_ms / outputs.teacher_latency.median_ms:.3f}x"
    rows.append(("latency (measured)", *times, ratio))
    rows.append(
        (
            f"{task.metric_name} ({len(task.val):,} samples)",
            f"{outputs.teacher_metric:.2f}{percent}",
            f"{outputs.metric:.2f}{percent}",
            f"{outputs.metric - outputs.teacher_metric:+.2f}",
        )
    )
    for resource in (PARAMS, FLOPS, MEMORY):
        before, after = outputs.teacher_costs[resource], outputs.costs[resource]
        ratio = f"{after / before:.3f}x" if before else "-"
        texts = format_cost(resource, before), format_cost(resource, after)
        title = "peak activations" if resource == MEMORY else TITLES[resource]
        rows.append((f"{title} (counted)", *texts, ratio))
    return rows


def verdict(compilation: Compilation) -> tuple[bool, str]:
    """Whether the emitted student meets its budget as measured, and a sentence that says so."""
    outputs: Outputs = compilation.need("outputs")
    missed = []
    for limit in compilation.budget.limits:
        own, student = outputs.teacher_costs[limit.resource], outputs.costs[limit.resource]
        allowed = limit.value * own if limit.relative else limit.value
        if student > allowed:
            missed.append(f"{limit.text} (got {student / own:.3f}x)")
    if missed:
        return False, f"the budget is missed: {', '.join(missed)}"
    return True, f"the budget {compilation.budget} is met"


def replacements(compilation: Compilation) -> list[tuple[str, str, str]]:
    """(slot, shapes, op) of every slot."""
    slots, chosen = compilation.need("program").slots, compilation.need("chosen")
    return [
        (slot.name, f"{slot.input_spec} -> {slot.output_spec}", str(op))
        for slot, op in zip(slots, chosen.plan.ops, strict=True)
    ]


def summary(compilation: Compilation) -> str:
    """The report as Markdown."""
    outputs: Outputs = compilation.need("outputs")
    student, chosen = compilation.need("student"), compilation.need("chosen")
    costs = compilation.need("costs")
    lines = [
        f"# Student at {compilation.budget} on {compilation.target}",
        "",
        f"{verdict(compilation)[1].capitalize()}.",
        "",
        *_table(("", "teacher", "student", ""), result_rows(compilation)),
        "",
        "Latencies are medians (with quartiles) of teacher and student as emitted in ONNX, "
        f"interleaved in one run on {compilation.target}; with one thread they are CPU time.",
        "",
        "## What was replaced",
        "",
        *_table(("slot", "shapes", "op"), replacements(compilation)),
        "",
        "## From prediction to measurement",
        "",
        *_table(
            (
                "finalist",
                "loss (teacher)",
                "change of the loss: predicted, measured",
                "held-out loss: before, after a trial",
                "predicted cost",
                "measured before finetuning",
            ),
            _finalist_rows(compilation, costs.teacher.get(LATENCY)),
        ),
        "",
        *_how_chosen(compilation),
        *_own_and_dropped(compilation),
        *_error_of_sums(costs),
        f"Kept: epoch {student.best_epoch} of {len(student.epochs) - 1}, "
        f"{compilation.task.metric_name} {student.metric:.2f} on "
        f"{len(compilation.task.held_out):,} held-out training samples. "
        f"Predicted change of the loss: {chosen.plan.predicted:+.4f}.",
        "",
        "## Files",
        "",
        *(
            f"- {', '.join(f'`{file}`' for file in files)} ({name}): agrees with the student on real "
            f"inputs within {outputs.agreement[name]:.1e}"
            for name, files in outputs.files.items()
        ),
        "- `plan.json`: every figure of this page, for programs",
        "",
    ]
    return "\n".join(lines)


def _own_and_dropped(compilation: Compilation) -> list[str]:
    """Which op families are the user's, and which ops failed."""
    lines = []
    if compilation.families.own:
        own = ", ".join(f"`{name}` ({own.where})" for name, own in compilation.families.own.items())
        lines += [f"Op families of your own were tried: {own}.", ""]
    if compilation.dropped:
        lines += ["Dropped, because they failed:", ""]
        lines += [f"- {item.reason}" for item in compilation.dropped] + [""]
    return lines


def _error_of_sums(costs: CostTable) -> list[str]:
    if LATENCY not in costs.costs:
        return []
    return [
        "Predicted latencies are sums of separately measured ops; over whole networks measured beside "
        f"them they are off by {100 * costs.error:.1f} % on average.",
        "",
    ]


def _finalist_rows(compilation: Compilation, teacher_ms: float | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    finalists: tuple[Finalist, ...] = compilation.need("finalists")
    for place, item in enumerate(finalists, 1):
        mark = " (chosen)" if item.plan.ops == compilation.need("chosen").plan.ops else ""
        predicted = ", ".join(
            format_cost(name, item.plan.costs[name])
            for name in RESOURCES
            if name in item.plan.costs
        )
        measured = "-"
        if item.latency is not None and teacher_ms:
            measured = f"{item.latency} = {item.costs[LATENCY] / teacher_ms:.3f}x"
        trial = item.trial
        rows.append(
            (
                f"{place}{mark}",
                f"{item.loss:.4f} ({item.teacher_loss:.4f})",
                f"{item.plan.predicted:+.4f}, {item.loss - item.teacher_loss:+.4f}",
                f"{trial.before:.4f}, {trial.after:.4f}" if trial is not None else "-",
                predicted,
                measured,
            )
        )
    return rows


def _how_chosen(compilation: Compilation) -> list[str]:
    """How the finalists came about, and by what one of them was chosen."""
    lines = []
    for place, item in enumerate(compilation.refined, 1):
        found = (
            f"the loss went from {item.before:.4f} to {item.after:.4f}"
            if item.after < item.before
            else "none has a lower loss"
        )
        lines.append(
            f"Refinement, round {place}: {item.networks} changes of the best plan were measured, and "
            f"{item.plans} plans that follow from them; {found}."
        )
    trial = compilation.need("chosen").trial
    if trial is not None:
        lines.append(
            f"A trial is a finetuning of {trial.steps} steps; of the finalists that meet the budget "
            f"the one with the lowest loss afterwards, on {trial.samples:,} held-out training "
            "samples, was chosen."
        )
    return [part for line in lines for part in (line, "")]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
