"""An explanation for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lanac.explaining import STEP, Explanation, Reason
from lanac.targets import LATENCY, TITLES, format_cost


def show_explanation(console: Console, found: Explanation) -> None:
    """A row for each slot, and what a larger budget would change; a slot alone in sentences."""
    resource = found.steps[0].resource if found.steps else LATENCY
    if len(found.reasons) == 1:
        for line in sentences(found.reasons[0], resource):
            console.print(escape(line), highlight=False)
    else:
        console.print(_table(found, resource))
    for step in found.steps:
        title = TITLES[step.resource]
        console.print(
            f"one more percent of {title} would save a predicted loss of {step.price:.4f}; at "
            f"{100 * STEP:.0f} % more ({format_cost(step.resource, step.limit)}) the best plan by "
            f"prediction would change {len(step.changes)} slots"
            + "".join(f"\n  {escape(slot)}: {old} -> {new}" for slot, old, new in step.changes),
            highlight=False,
        )


def _table(found: Explanation, resource: str) -> Table:
    table = Table(title=f"budget {found.budget} on {found.target} (predicted)", box=None)
    table.add_column("slot")
    table.add_column("op")
    table.add_column("saves", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("runner-up")
    for reason in found.reasons:
        changed = reason.chosen.op != reason.own.op
        saved = format_cost(resource, reason.saved(resource)) if changed else ""
        table.add_row(
            escape(reason.slot),
            reason.chosen.op,
            saved,
            f"{reason.chosen.score:+.4f}" if changed else "",
            _runner_up(reason),
        )
    return table


def _runner_up(reason: Reason) -> str:
    if reason.runner_up is None:
        return ""
    return f"{reason.runner_up.op} ({reason.runner_up.score - reason.chosen.score:+.4f})"


def sentences(reason: Reason, resource: str) -> list[str]:
    """Why a slot has its op."""
    chosen, own = reason.chosen, reason.own
    if chosen.op == own.op:
        lines = [
            f"{reason.slot} keeps the teacher's op, {format_cost(resource, own.costs[resource])}"
        ]
    else:
        share = chosen.costs[resource] / own.costs[resource] if own.costs[resource] else 0.0
        lines = [
            f"{reason.slot} takes {chosen.op}: {format_cost(resource, chosen.costs[resource])} "
            f"instead of {format_cost(resource, own.costs[resource])} ({share:.2f}x), for a predicted "
            f"change of the loss of {chosen.score:+.4f}"
        ]
    if reason.runner_up is None:
        lines.append("no other op fits the budget while the other slots stay as they are")
    else:
        other = reason.runner_up
        lines.append(
            f"runner-up, while the other slots stay as they are: {other.op}, "
            f"{format_cost(resource, other.costs[resource])}, loss "
            f"{other.score - chosen.score:+.4f} against the chosen op"
        )
    if reason.left_out:
        lines.append(f"{reason.left_out} ops with a better score do not fit the budget")
    return lines
