"""Devices and what can be done here for them: as a table, one in detail, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lanac.abilities import Ability, OutputAbility
from lanac.version import __version__

SCHEMA = 1
"""Version of the JSON; it grows when a key changes its meaning or goes away."""

_VENDOR = re.compile(r"^(NVIDIA|Intel) (GeForce |Core )?")
_SHOWN = 3


def show_targets(console: Console, found: Sequence[Ability]) -> None:
    """One line per device, then the reasons for what is missing."""
    common = _common(found)
    own = sorted({o.name for item in found for o in item.outputs} - set(common))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    longest = max(len(item.device.name) for item in found)
    table.add_column("device", no_wrap=True, min_width=longest)
    titles = ("measured", "predicted", *own)
    room = console.width - longest - sum(len(title) + 1 for title in titles) - 2
    table.add_column("what it is", no_wrap=True, overflow="ellipsis", max_width=max(room, 8))
    for title in titles:
        table.add_column(title, no_wrap=True, min_width=len(title))
    for item in found:
        states = {output.name: _built(output) for output in item.outputs}
        table.add_row(
            item.device.name,
            escape(_VENDOR.sub("", item.device.title)),
            _all_or_names(item, [r.name for r in item.runtimes if r.unmeasured is None]),
            _all_or_names(item, [r.name for r in item.runtimes if r.unpredicted is None]),
            *(states[name] for name in own),
        )
    console.print(table)
    console.print()
    console.print(f"outputs for every device: {', '.join(common)}", highlight=False)
    for line in _reasons(found):
        console.print(f"[dim]{escape(line)}[/]", highlight=False)
    console.print(
        "[dim]lanac targets DEVICE shows one with its runtimes, precisions and figures[/]",
        highlight=False,
    )


def _common(found: Sequence[Ability]) -> list[str]:
    """Outputs that can be written for all of them."""
    written = [{o.name for o in item.outputs if o.unwritten is None} for item in found]
    return sorted(set.intersection(*written)) if written else []


def _all_or_names(item: Ability, runtimes: list[str]) -> str:
    return "yes" if len(runtimes) == len(item.runtimes) else " ".join(runtimes) or "-"


def _built(output: OutputAbility) -> str:
    if output.unwritten is not None:
        return "-"
    return "yes" if output.unbuilt is None else "script"


def _reasons(found: Sequence[Ability]) -> list[str]:
    """Why something is missing: each reason once, with what it is about."""
    lines = []
    about: tuple[tuple[str, Callable[[Ability], list[tuple[str, str | None]]]], ...] = (
        ("not measured", lambda i: [(r.name, r.unmeasured) for r in i.runtimes]),
        ("not predicted", lambda i: [(r.name, r.unpredicted) for r in i.runtimes]),
        ("a build script for", lambda i: [(o.name, o.unbuilt) for o in i.outputs]),
    )
    for what, reasons_of in about:
        grouped: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for item in found:
            for name, reason in reasons_of(item):
                if reason is not None:
                    names, devices = grouped.setdefault(reason, ({}, {}))
                    names[name] = devices[item.device.name] = None
        for reason, (names, devices) in grouped.items():
            text = " ".join(filter(None, (what, ", ".join(names))))
            lines.append(f"{text} ({_few(list(devices))}): {reason}")
    return lines


def _few(names: list[str]) -> str:
    if len(names) <= _SHOWN + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def show_target(console: Console, item: Ability) -> None:
    """One device: runtimes, outputs and figures, with reasons and sources."""
    device = item.device
    console.print(f"[bold]{device.name}[/]: {escape(device.title)}", highlight=False)
    if device.capability is not None:
        last = device.last_tensorrt
        newest = f", last TensorRT {last[0]}.{last[1]}" if last else ""
        capability = ".".join(map(str, device.capability))
        console.print(f"compute capability {capability}{newest}", highlight=False)
    console.print(f"--target {device.name} is {item.target}", highlight=False)
    console.print()
    console.print(
        _list(
            ("runtime", "precisions", "predicted", "measured here"),
            [
                (
                    r.name,
                    " ".join(r.precisions),
                    "yes" if r.unpredicted is None else "no",
                    "yes" if r.unmeasured is None else r.unmeasured,
                )
                for r in item.runtimes
            ],
        )
    )
    for reason in dict.fromkeys(r.unpredicted for r in item.runtimes if r.unpredicted):
        console.print(f"not predicted: {escape(reason)}", highlight=False)
    console.print()
    console.print(_list(("output", "here"), [(o.name, _state(o)) for o in item.outputs]))
    if device.figures:
        console.print()
        figures = [(name, f"{f.value:g}", f.source) for name, f in device.figures.items()]
        console.print(_list(("figure", "", "source"), figures))


def _state(output: OutputAbility) -> str:
    if output.unwritten is not None:
        return f"no: {output.unwritten}"
    return "yes" if output.unbuilt is None else f"ONNX and a build script: {output.unbuilt}"


def _list(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold", justify="left" if title else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def record(found: Sequence[Ability]) -> str:
    """The same as JSON."""
    text = {
        "schema": SCHEMA,
        "lanac": __version__,
        "devices": [_record(item) for item in found],
    }
    return json.dumps(text, indent=2)


def _record(item: Ability) -> dict[str, object]:
    device = item.device
    return {
        "name": device.name,
        "title": device.title,
        "kind": device.kind,
        "target": str(item.target),
        "capability": _version(device.capability),
        "last_tensorrt": _version(device.last_tensorrt),
        "runtimes": [
            {
                "name": runtime.name,
                "precisions": list(runtime.precisions),
                "measured_here": runtime.unmeasured is None,
                "not_measured": runtime.unmeasured,
                "predicted": runtime.unpredicted is None,
                "not_predicted": runtime.unpredicted,
            }
            for runtime in item.runtimes
        ],
        "outputs": [
            {
                "name": output.name,
                "written_here": output.unwritten is None,
                "not_written": output.unwritten,
                "built_here": output.unwritten is None and output.unbuilt is None,
                "not_built": output.unbuilt,
            }
            for output in item.outputs
        ],
        "figures": {
            name: {"value": figure.value, "source": figure.source}
            for name, figure in device.figures.items()
        },
    }


def _version(version: tuple[int, int] | None) -> str | None:
    return None if version is None else f"{version[0]}.{version[1]}"
