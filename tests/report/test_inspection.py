from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import lanac
from lanac.ir import LeftOut
from lanac.report.figures import figures_of
from lanac.report.inspection import bar, left_out_text, record, show_inspection

TABLE = """\
forked <&>: 4 slots, input 3x8x8
slot     kind  input  output  params   flops  of flops
stem     conv  3x8x8  4x4x4      100     100   10.0 % █▌
down     conv  4x4x4  8x2x2      200     200   20.0 % ███
up.0     conv  8x2x2  4x2x2      300     300   30.0 % ████▌
last     conv  8x4x4  2x4x4      400     400   40.0 % ██████

outside                            0       0    0.0 %
whole                         1.00 k  1.00 k  100.0 %
left out: up_1, cat: no weights
left out: sigmoid: no weights
params and flops are counted, for one sample; a multiplication with its addition is two flops
drawn in forked.svg
"""


def test_the_screen(forked: lanac.Inspection) -> None:
    file = io.StringIO()
    show_inspection(Console(file=file, width=120), forked, Path("forked.svg"))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines == TABLE.splitlines()


def test_figures(forked: lanac.Inspection) -> None:
    figures = figures_of(forked)
    assert not figures.measured
    assert [slot.share for slot in figures.slots] == [0.1, 0.2, 0.3, 0.4]
    assert figures.of("down").costs["params"] == 200
    assert figures.outside_share == 0


def test_json_names_what_is_left_out(forked: lanac.Inspection) -> None:
    value = json.loads(record(forked))
    assert value["left_out"] == [
        {"nodes": ["up_1", "cat"], "reason": "no weights"},
        {"nodes": ["sigmoid"], "reason": "no weights"},
    ]
    assert value["latency_error"] is None
    assert value["outside"]["latency_share"] is None


def test_many_left_out_nodes_are_counted() -> None:
    assert left_out_text(LeftOut(("a", "b", "c", "d", "e"), "why")) == "a, b, c and 2 more: why"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "██████"), (0.5, "███   "), (0.09, "▌     "), (0.0, "      ")],
)
def test_bars(value: float, text: str) -> None:
    assert bar(value, 1.0) == text
    assert bar(value, 0.0) == " " * 6
