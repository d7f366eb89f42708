"""Cost tables as files: measured on one machine, used on any (docs/cost-tables.md).

JSON lines. The first line is a header, every other one a slot's op. The header carries a checksum
of all that follows and of itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from lanac.errors import CostTableError

SCHEMA = 1
"""Version of the format; it grows when a key changes its meaning, goes away, or is needed newly."""

_KIND = "lanac cost table"


@dataclass(frozen=True)
class SlotShape:
    """A slot of the model that was measured.

    Attributes:
        slot: its name.
        input: of the tensor that enters, such as `f32[N,64,56,56]`.
        output: of the one that leaves.
        what: hash of what the teacher computes there, whatever its weights.
    """

    slot: str
    input: str
    output: str
    what: str


@dataclass(frozen=True)
class Entry:
    """What one op costs in one slot.

    Attributes:
        slot: name of the slot.
        op: the op.
        what: hash of what the op computes, whatever its weights.
        latency_ms: its share of a network's latency; None where it was not timed.
        energy_mj: its share of a network's energy, in millijoules; None where it is not known.
        why: why it was not timed, where it was not.
    """

    slot: str
    op: str
    what: str
    latency_ms: float | None = None
    energy_mj: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class CostFile:
    """A table with where it comes from.

    Attributes:
        target: as a string with all its parts.
        runtime: the library and its version, such as `onnxruntime 1.32.0`.
        device: what it ran on, as people call it.
        device_fingerprint: what tells that device from others.
        inputs: specs of the network's inputs.
        slots: in the order of the graph.
        latency_ms: of the whole teacher.
        outside_latency_ms: of what lies outside the slots, the runtime's own call included.
        error: mean relative error of sums of parts over whole networks measured beside them.
        networks: (sum of parts, measured) of those networks, in milliseconds.
        entries: one for each slot and op.
        energy_mj, outside_energy_mj: like the latencies; None where energy is not known.
        lanac, torch: versions that made it.
    """

    target: str
    runtime: str
    device: str
    device_fingerprint: str
    inputs: tuple[str, ...]
    slots: tuple[SlotShape, ...]
    latency_ms: float
    outside_latency_ms: float
    error: float
    networks: tuple[tuple[float, float], ...]
    entries: tuple[Entry, ...] = field(repr=False)
    energy_mj: float | None = None
    outside_energy_mj: float | None = None
    lanac: str = ""
    torch: str = ""

    def by_place(self) -> dict[tuple[str, str], Entry]:
        """The entries by slot and op."""
        return {(entry.slot, entry.op): entry for entry in self.entries}


def what_hash(signature: str) -> str:
    """A short name for what a module computes."""
    return hashlib.sha256(signature.encode()).hexdigest()[:16]


def format_costs(table: CostFile) -> str:
    """The text of a table's file."""
    lines = [_line({k: v for k, v in asdict(e).items() if v is not None}) for e in table.entries]
    header = asdict(table)
    del header["entries"]
    header = {"kind": _KIND, "schema": SCHEMA, **header, "entries": len(lines)}
    header["checksum"] = _checksum(header, lines)
    return "\n".join([_line(header), *lines, ""])


def read_costs(path: Path) -> CostFile:
    """Reads a table; nothing in it is executed.

    Raises:
        CostTableError: it is no table, of another version of the format, truncated, edited, or has
            values that are no costs.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise CostTableError(
            f"cannot read the cost table {path}: {reason}; expected a file that lanac measure wrote"
        ) from error
    header = _header(path, lines)
    body = lines[1:]
    if len(body) < header["entries"] or not _is_whole(body[-1:]):
        raise CostTableError(
            f"the cost table {path} is truncated: {len(body)} of {header['entries']} entries are "
            "there. Copy it again, or go on measuring with the same lanac measure command"
        )
    if header.get("checksum") != _checksum(header, body):
        raise CostTableError(
            f"the cost table {path} was changed after it was written: its checksum does not fit. "
            "Take the file as lanac measure wrote it; docs/cost-tables.md says how to add a column"
        )
    table = _table(path, header, body)
    _check(path, table)
    return table


def _header(path: Path, lines: Sequence[str]) -> dict[str, Any]:
    what = "expected a file that lanac measure wrote"
    if not lines:
        raise CostTableError(f"the cost table {path} is empty; {what}")
    try:
        header: object = json.loads(lines[0], parse_constant=_no_number)
    except ValueError as error:
        raise CostTableError(f"{path} is no cost table: {error}; {what}") from error
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise CostTableError(f"{path} is no cost table: its first line is no header; {what}")
    if header.get("schema") != SCHEMA:
        raise CostTableError(
            f"the cost table {path} has version {header.get('schema')} of the format, this lanac "
            f"reads version {SCHEMA}. Measure again, or install the lanac that wrote it "
            f"({header.get('lanac', 'unknown')})"
        )
    if not isinstance(header.get("entries"), int):
        raise CostTableError(f"the cost table {path} has a damaged header; {what}")
    return header


def _is_whole(last: Sequence[str]) -> bool:
    try:
        return all(isinstance(json.loads(line, parse_constant=str), dict) for line in last)
    except ValueError:
        return False


def _table(path: Path, header: Mapping[str, Any], lines: Sequence[str]) -> CostFile:
    names = {item.name for item in fields(CostFile)}
    try:
        entries = tuple(Entry(**json.loads(line, parse_constant=_no_number)) for line in lines)
        values = {name: value for name, value in header.items() if name in names}
        values["slots"] = tuple(SlotShape(**slot) for slot in header["slots"])
        values["networks"] = tuple((float(a), float(b)) for a, b in header["networks"])
        values["inputs"] = tuple(header["inputs"])
        return CostFile(**{**values, "entries": entries})
    except (TypeError, KeyError, ValueError) as error:
        raise CostTableError(f"the cost table {path} cannot be used: {error}") from error


def _check(path: Path, table: CostFile) -> None:
    """Raises where a value is no cost, or an op is there twice."""
    values: list[tuple[str, float | None]] = [
        ("the teacher's latency", table.latency_ms),
        ("the latency outside the slots", table.outside_latency_ms),
        ("the teacher's energy", table.energy_mj),
        ("the energy outside the slots", table.outside_energy_mj),
    ]
    for entry in table.entries:
        here = f"op {entry.op} in slot {entry.slot!r}"
        values += [
            (f"the latency of {here}", entry.latency_ms),
            (f"the energy of {here}", entry.energy_mj),
        ]
    for what, value in values:
        if value is None:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise CostTableError(
                f"the cost table {path}: {what} is {value}; expected a number of at least 0"
            )
    if not table.latency_ms > 0:
        raise CostTableError(f"the cost table {path}: the teacher's latency is 0; expected more")
    counts = Counter((entry.slot, entry.op) for entry in table.entries)
    for (slot, op), count in counts.items():
        if count > 1:
            raise CostTableError(
                f"the cost table {path} has op {op} of slot {slot!r} {count} times; expected once"
            )


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number; expected a number of at least 0")


def _checksum(header: Mapping[str, Any], lines: Sequence[str]) -> str:
    first = _line({name: value for name, value in header.items() if name != "checksum"})
    return hashlib.sha256("\n".join([first, *lines]).encode()).hexdigest()


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
