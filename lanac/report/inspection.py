"""An inspection for people, as a table, and for programs, as JSON (docs/inspect.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lanac.inspection import Inspection
from lanac.ir import LeftOut, TensorSpec
from lanac.report.console import ConsoleInstruments
from lanac.report.describe import dimensions, kind_of, layers_of
from lanac.report.figures import NetworkFigures, figures_of
from lanac.targets import COUNTED, FLOPS, LATENCY, PARAMS, Target, format_cost
from lanac.version import __version__

SCHEMA = 1
"""Version of the JSON; it grows when a key changes its meaning or goes away."""

_BAR = 6
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHOWN = 3


class QuietInstruments(ConsoleInstruments):
    """Shows progress and warnings; the result says the rest."""

    def pass_finished(self, name: str, seconds: float) -> None:
        return

    def say(self, message: str) -> None:
        return


def show_inspection(console: Console, inspection: Inspection, svg: Path | None = None) -> None:
    """The slots as a table, what is left out and why, and how the figures were found."""
    figures = figures_of(inspection)
    console.print(_slot_table(inspection, figures))
    for part in inspection.program.left_out:
        console.print(f"left out: {escape(left_out_text(part))}", highlight=False)
    for note in inspection.program.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    for line in explanations(inspection, figures):
        console.print(f"[dim]{escape(line)}[/]", highlight=False)
    if svg is not None:
        console.print(f"drawn in {escape(str(svg))}", highlight=False)


def _slot_table(inspection: Inspection, figures: NetworkFigures) -> Table:
    program = inspection.program
    inputs = ", ".join(dimensions(spec) for spec in program.input_specs)
    count = len(figures.slots)
    title = f"{inspection.name}: {count} slot{'s' if count != 1 else ''}, input {inputs}"
    # No lines: eleven of eighty columns would go into them.
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False,
        padding=(0, 2, 0, 0),
    )  # fmt: skip
    table.add_column("slot", overflow="fold")
    for shape in ("kind", "input", "output"):
        table.add_column(shape, no_wrap=True)
    for amount in ("params", "flops"):
        table.add_column(amount, justify="right", no_wrap=True)
    table.add_column(f"of {'latency' if figures.measured else 'flops'}", no_wrap=True)
    largest = max([slot.share for slot in figures.slots], default=0.0)
    for slot in figures.slots:
        table.add_row(
            escape(slot.slot.name),
            kind_of(program, slot.slot.nodes),
            dimensions(slot.slot.input_spec),
            dimensions(slot.slot.output_spec),
            *_amounts(slot.costs),
            f"{100 * slot.share:5.1f} % {bar(slot.share, largest)}",
        )
    table.add_row()
    outside = f"{100 * figures.outside_share:5.1f} %"
    table.add_row("[dim]outside[/]", "", "", "", *_amounts(figures.outside), outside)
    whole = format_cost(LATENCY, figures.total[LATENCY]) if figures.measured else "100.0 %"
    table.add_row("[bold]whole[/]", "", "", "", *_amounts(figures.total), whole)
    return table


def _amounts(costs: Mapping[str, float]) -> tuple[str, str]:
    """Params and flops without their names, which stand above the column."""
    params = format_cost(PARAMS, costs[PARAMS]).removesuffix("params").strip()
    flops = format_cost(FLOPS, costs[FLOPS]).removesuffix("FLOP").strip()
    return params, flops


def bar(value: float, largest: float) -> str:
    """A bar of block characters; the largest value fills it."""
    eighths = round(8 * _BAR * value / largest) if largest else 0
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def left_out_text(part: LeftOut) -> str:
    """`relu, pool: no weights`; the first nodes where there are many."""
    names = ", ".join(part.nodes[:_SHOWN])
    more = len(part.nodes) - _SHOWN
    return f"{names}{f' and {more} more' if more > 0 else ''}: {part.reason}"


def explanations(inspection: Inspection, figures: NetworkFigures) -> list[str]:
    """How the figures were found, a sentence each."""
    lines = [
        "params and flops are counted, for one sample; a multiplication with its addition is two flops"
    ]
    if figures.measured:
        clock = "CPU time" if inspection.target.threads == 1 else "wall time"
        lines.append(
            f"latency is measured on this machine in {_runtime_title(inspection.target)} "
            f"({inspection.target}, {clock}): each slot alone, "
            "scaled so that they add up to the whole; over networks with slots skipped the sum "
            f"is off by {100 * inspection.costs.error:.1f} % on average"
        )
    return lines


def _runtime_title(target: Target) -> str:
    """What people call the runtime."""
    titles = {
        "onnxruntime": "ONNX Runtime",
        "openvino": "OpenVINO",
        "pytorch": "PyTorch",
        "inductor": "PyTorch with torch.compile",
    }
    return titles.get(target.runtime, target.runtime)


def record(inspection: Inspection, svg: Path | None = None) -> str:
    """The inspection as JSON text; docs/inspect.md describes the keys."""
    figures, program = figures_of(inspection), inspection.program
    measured = figures.measured
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "lanac": __version__,
        "model": inspection.name,
        "target": str(inspection.target),
        "inputs": [_spec(spec) for spec in program.input_specs],
        "slots": [
            {
                "name": slot.slot.name,
                "kind": kind_of(program, slot.slot.nodes),
                "layers": layers_of(program, slot.slot.nodes),
                "input": _spec(slot.slot.input_spec),
                "output": _spec(slot.slot.output_spec),
                **_costs(slot.costs),
                "latency_share": slot.share if measured else None,
                "nodes": list(slot.slot.nodes),
            }
            for slot in figures.slots
        ],
        "outside": {
            **_costs(figures.outside),
            "latency_share": figures.outside_share if measured else None,
        },
        "whole": _costs(figures.total),
        "how": {resource: inspection.costs.how.get(resource) for resource in (LATENCY, *COUNTED)},
        "latency_error": inspection.costs.error if measured else None,
        "left_out": [
            {"nodes": list(part.nodes), "reason": part.reason} for part in program.left_out
        ],
        "notes": list(program.notes),
        "svg": str(svg) if svg is not None else None,
    }
    return json.dumps(value, indent=2, allow_nan=False)


def _costs(costs: Mapping[str, float]) -> dict[str, float | int | None]:
    """By resource; what is counted is a whole number, latency None where it was not measured."""
    counted = {name: int(costs[name]) for name in COUNTED}
    return {LATENCY: costs.get(LATENCY), **counted}


def _spec(spec: TensorSpec) -> dict[str, str | Sequence[int]]:
    return {"shape": list(spec.sample_shape), "dtype": str(spec.dtype).removeprefix("torch.")}
