"""Cost tables as files: what is written is read, and what is wrong with one is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lanac.errors import CostTableError
from lanac.targets import CostFile, Entry, SlotShape, format_costs, read_costs

TABLE = CostFile(
    target="v100:tensorrt:fp16:b128:t1",
    runtime="tensorrt 10.4.0",
    device="Tesla V100",
    device_fingerprint="0123456789abcdef",
    inputs=("f32[N,3,224,224]",),
    slots=(SlotShape("layer1.0", "f32[N,64,56,56]", "f32[N,64,56,56]", "aa"),),
    latency_ms=12.5,
    outside_latency_ms=1.25,
    error=0.017,
    networks=((6.0, 6.1), (9.0, 8.9)),
    entries=(
        Entry("layer1.0", "teacher", "aa", 3.5),
        Entry("layer1.0", "slim(w=0.5)", "bb", 1.75),
        Entry("layer1.0", "efn(e=6,k=11,se=0)", "cc", why="cannot be cheaper"),
    ),
    lanac="0.1.0",
    torch="2.14.1",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "v100.costs"
    found.write_text(format_costs(TABLE))
    return found


def refusal(path: Path) -> str:
    with pytest.raises(CostTableError) as caught:
        read_costs(path)
    return str(caught.value).replace(str(path), "FILE")


def edited(path: Path, place: int, **changes: object) -> None:
    """Changes a line, and leaves the checksum as it is."""
    lines = path.read_text().splitlines()
    lines[place] = json.dumps({**json.loads(lines[place]), **changes})
    path.write_text("\n".join([*lines, ""]))


def rewritten(path: Path, **changes: object) -> None:
    """A table with other values, and the checksum that belongs to them."""
    path.write_text(format_costs(replace(TABLE, **changes)))  # type: ignore[arg-type]


def test_what_is_written_is_read(path: Path) -> None:
    assert read_costs(path) == TABLE
    assert read_costs(path).by_place()["layer1.0", "slim(w=0.5)"].latency_ms == 1.75


def test_energy_is_a_column_of_its_own(path: Path) -> None:
    entries = tuple(replace(entry, energy_mj=7.0) for entry in TABLE.entries)
    rewritten(path, entries=entries, energy_mj=100.0, outside_energy_mj=10.0)
    assert [entry.energy_mj for entry in read_costs(path).entries] == [7.0] * 3


def test_lines_are_readable_by_themselves(path: Path) -> None:
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert (header["kind"], header["schema"], header["entries"]) == ("lanac cost table", 1, 3)
    assert lines[1] == {"slot": "layer1.0", "op": "slim(w=0.5)", "what": "bb", "latency_ms": 1.75}


WRITTEN = "expected a file that lanac measure wrote"


def test_no_file(path: Path) -> None:
    path.unlink()
    assert refusal(path) == f"cannot read the cost table FILE: No such file or directory; {WRITTEN}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"the cost table FILE is empty; {WRITTEN}"),
        (b"\xff\xfe\x00", f"cannot read the cost table FILE: it is no text; {WRITTEN}"),
        (b"[1]\n", f"FILE is no cost table: its first line is no header; {WRITTEN}"),
        (
            b"latency\n",
            f"FILE is no cost table: Expecting value: line 1 column 1 (char 0); {WRITTEN}",
        ),
    ],
)
def test_no_table(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert refusal(path) == message


@pytest.mark.parametrize("left", [2, 3])
def test_truncated_between_lines(path: Path, left: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:left]))
    assert refusal(path) == (
        f"the cost table FILE is truncated: {left - 1} of 3 entries are there. Copy it again, or go "
        "on measuring with the same lanac measure command"
    )


def test_truncated_within_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(path).startswith("the cost table FILE is truncated: ")


EDITED = (
    "the cost table FILE was changed after it was written: its checksum does not fit. Take the file "
    "as lanac measure wrote it; docs/cost-tables.md says how to add a column"
)


def test_edited(path: Path) -> None:
    edited(path, 2, latency_ms=0.5)
    assert refusal(path) == EDITED


def test_an_edited_header(path: Path) -> None:
    edited(path, 0, device="Tesla P100")
    assert refusal(path) == EDITED


def test_another_version_of_the_format(path: Path) -> None:
    edited(path, 0, schema=2)
    assert refusal(path) == (
        "the cost table FILE has version 2 of the format, this lanac reads version 1. Measure again, "
        "or install the lanac that wrote it (0.1.0)"
    )


@pytest.mark.parametrize(("latency_ms", "shown"), [(-1.0, "-1.0"), ("3", "3"), (True, "True")])
def test_values_that_are_no_costs(path: Path, latency_ms: object, shown: str) -> None:
    rewritten(path, entries=(replace(TABLE.entries[1], latency_ms=latency_ms),))  # type: ignore[arg-type]
    assert refusal(path) == (
        "the cost table FILE: the latency of op slim(w=0.5) in slot 'layer1.0' is "
        f"{shown}; expected a number of at least 0"
    )


def test_no_numbers(path: Path) -> None:
    rewritten(path, entries=(replace(TABLE.entries[1], latency_ms=float("nan")),))
    assert refusal(path) == (
        "the cost table FILE cannot be used: NaN is no number; expected a number of at least 0"
    )
    rewritten(path, latency_ms=float("inf"))
    assert refusal(path) == (
        f"FILE is no cost table: Infinity is no number; expected a number of at least 0; {WRITTEN}"
    )


def test_a_teacher_that_takes_no_time(path: Path) -> None:
    rewritten(path, latency_ms=0.0)
    assert refusal(path) == "the cost table FILE: the teacher's latency is 0; expected more"


def test_an_op_that_is_there_twice(path: Path) -> None:
    rewritten(path, entries=(*TABLE.entries, TABLE.entries[1]))
    assert refusal(path) == (
        "the cost table FILE has op slim(w=0.5) of slot 'layer1.0' 2 times; expected once"
    )


def test_an_unknown_key_is_named(path: Path) -> None:
    line = json.dumps({"slot": "a", "op": "b", "what": "c", "watts": 3})
    assert "watts" not in format_costs(TABLE)
    rewritten(path)
    from lanac.targets import cost_file

    header, *lines = path.read_text().splitlines()
    record = {**json.loads(header), "entries": 4}
    lines.append(line)
    record["checksum"] = cost_file._checksum(record, lines)
    path.write_text("\n".join([json.dumps(record), *lines, ""]))
    assert refusal(path).startswith("the cost table FILE cannot be used: ")
    assert "'watts'" in refusal(path)
