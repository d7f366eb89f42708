"""The report of one student: plan.json for programs, summary.md for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lanac.compilation import Compilation, Finalist, Outputs
from lanac.ir import TEACHER, Plan, Slot
from lanac.passes.select_plans import summed_constants, summed_limits
from lanac.passes.student_files import TEACHER_NAME
from lanac.report.latency import (
    how_known,
    latency_notes,
    latency_record,
    latency_row,
    timing_record,
)
from lanac.targets import (
    COUNTED,
    ENERGY,
    LATENCY,
    MEMORY,
    RESOURCES,
    SIZE,
    TITLES,
    CostTable,
    format_cost,
)
from lanac.version import __version__
from lanac.workspace import checksum, disk_errors, write_atomically

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
        "measured_elsewhere": costs.elsewhere or None,
        "error_of_sums": costs.error if LATENCY in costs.costs else None,
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
        "latency": latency_record(compilation),
        "costs": dict(outputs.costs),
        "teacher_costs": dict(outputs.teacher_costs),
        "files": {name: list(files) for name, files in outputs.files.items()},
        "agreement": outputs.agreement,
        "verified": {name: dict(vars(found)) for name, found in outputs.verified.items()},
        "checksums": _checksums(outputs),
        "teacher_file": f"../{TEACHER_NAME}",
        "own_ops": {name: own.where for name, own in compilation.families.own.items()},
        "dropped": [
            {"slot": item.slot, "op": str(item.op), "reason": item.reason}
            for item in compilation.dropped
        ],
    }


def _checksums(outputs: Outputs) -> dict[str, str]:
    """SHA-256 of every file, the teacher's included: what is read again later is known again."""
    names = [name for files in outputs.files.values() for name in files]
    paths = {name: outputs.folder / name for name in names}
    # Large weights lie beside the model.
    paths |= {f"../{path.name}": path for path in outputs.folder.parent.glob(f"{TEACHER_NAME}*")}
    return {name: checksum(path) for name, path in paths.items()}


def _finalist(item: Finalist, chosen: bool) -> dict[str, Any]:
    return {
        "chosen": chosen,
        "ops": [str(op) for op in item.plan.ops],
        "predicted": _predicted(item.plan),
        "loss": item.loss,
        "teacher_loss": item.teacher_loss,
        "images": item.images,
        "measured": dict(item.costs) if item.latency is not None else None,
        "latency": timing_record(item.latency),
        "teacher_latency": timing_record(item.teacher_latency),
        "error": item.error if item.latency is not None else None,
        "meets_budget": item.fits,
        "budget_probability": item.probability,
        "trial": dict(vars(item.trial)) if item.trial is not None else None,
    }


def _predicted(plan: Plan) -> dict[str, Any]:
    """`refined_score` is by scores around another plan, `score` by those in the teacher."""
    return {
        "score": plan.score,
        "refined_score": plan.refined_score,
        "costs": dict(plan.costs),
    }


def result_rows(compilation: Compilation) -> list[tuple[str, str, str, str]]:
    """(what, teacher, student, ratio) of every figure, with where it comes from."""
    outputs: Outputs = compilation.need("outputs")
    task = compilation.task
    percent = " %" if task.user_metric is None else ""
    rows = []
    latency = latency_row(compilation)
    if latency is not None:
        rows.append(latency)
    if ENERGY in outputs.costs:
        how = f"sum of parts, {compilation.need('costs').how[ENERGY]}"
        rows.append(_cost_row(outputs, ENERGY, TITLES[ENERGY], how))
    rows.append(
        (
            f"{task.metric_name} ({len(task.val):,} samples)",
            f"{outputs.teacher_metric:.2f}{percent}",
            f"{outputs.metric:.2f}{percent}",
            f"{outputs.metric - outputs.teacher_metric:+.2f}",
        )
    )
    titles = {MEMORY: "peak activations", SIZE: f"weights in {compilation.target.precision}"}
    rows += [
        _cost_row(outputs, resource, titles.get(resource, TITLES[resource]), "counted")
        for resource in COUNTED
    ]
    return rows


def _cost_row(outputs: Outputs, resource: str, title: str, how: str) -> tuple[str, str, str, str]:
    before, after = outputs.teacher_costs[resource], outputs.costs[resource]
    ratio = f"{after / before:.3f}x" if before else "-"
    return f"{title} ({how})", format_cost(resource, before), format_cost(resource, after), ratio


def verdict(compilation: Compilation) -> tuple[bool, str]:
    """Whether the emitted student meets its budget, and a sentence that says so, and how it is known."""
    outputs: Outputs = compilation.need("outputs")
    missed = []
    for limit in compilation.budget.limits:
        own, student = outputs.teacher_costs[limit.resource], outputs.costs[limit.resource]
        allowed = limit.value * own if limit.relative else limit.value
        if student > allowed:
            missed.append(f"{limit.text} (got {student / own:.3f}x)")
    if missed:
        return False, f"the budget is missed: {', '.join(missed)}{how_known(compilation)}"
    return True, f"the budget {compilation.budget} is met{how_known(compilation)}"


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
    costs, (_, sentence) = compilation.need("costs"), verdict(compilation)
    lines = [
        f"# Student at {compilation.budget} on {compilation.target}",
        "",
        f"{sentence[0].upper()}{sentence[1:]}.",
        "",
        *_table(("", "teacher", "student", ""), result_rows(compilation)),
        "",
        *(line for note in latency_notes(compilation) for line in (note, "")),
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
                "off by",
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
            f"- {', '.join(f'`{file}`' for file in files)} ({name}): agrees with the student on "
            f"{outputs.verified[name].samples} real inputs {outputs.verified[name]}"
            for name, files in outputs.files.items()
        ),
        "- `plan.json`: every figure of this page, for programs",
        "",
        *(f"{note}.\n" for found in outputs.verified.values() for note in found.notes),
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
    if costs.how.get(LATENCY) not in ("measured", "imported"):
        return []
    where = f" on {costs.elsewhere} (imported)" * bool(costs.elsewhere)
    return [
        f"Predicted latencies are sums of ops measured one by one{where}; over whole networks measured "
        f"beside them they are off by {100 * costs.error:.1f} % on average.",
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
        measured = off = "-"
        if item.latency is not None and teacher_ms:
            measured = f"{item.latency} = {item.costs[LATENCY] / teacher_ms:.3f}x"
            off = f"{100 * item.error:+.1f} %"
        trial = item.trial
        rows.append(
            (
                f"{place}{mark}",
                f"{item.loss:.4f} ({item.teacher_loss:.4f})",
                f"{item.plan.predicted:+.4f}, {item.loss - item.teacher_loss:+.4f}",
                f"{trial.before:.4f}, {trial.after:.4f}" if trial is not None else "-",
                predicted,
                measured,
                off,
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
