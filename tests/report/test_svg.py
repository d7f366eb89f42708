from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lanac
from lanac.report.graph import Edge
from lanac.report.svg import arc_lanes, draw

GOLDEN = Path(__file__).parent / "forked.svg"
"""Look at it after every change on purpose: write `draw(forked)` there."""


def texts(svg: str) -> list[str]:
    return [
        element.text or ""
        for element in ElementTree.fromstring(svg).iter()
        if "text" in element.tag
    ]


def test_a_picture_as_a_whole(forked: lanac.Inspection) -> None:
    assert draw(forked) == GOLDEN.read_text(encoding="utf-8")


def test_it_says_what_there_is(forked: lanac.Inspection) -> None:
    found = texts(draw(forked))
    for words in (
        "forked <&>", "conv", "left out", "4 slots hold 100.0 % of the params",
        "share of flops (counted)", "stem", "conv 3x3 /2", "up.0", "last", "40.0 %",
        "400 params · 400 FLOP", "up.1, cat", "left out: no weights", "4x4x4", "output",
    ):  # fmt: skip
        assert words in found, words


def test_text_is_escaped(forked: lanac.Inspection) -> None:
    assert "forked &lt;&amp;&gt;" in draw(forked)
    assert "<&>" not in draw(forked)


def test_neighbours_are_joined_by_arrows_and_the_rest_by_arcs(forked: lanac.Inspection) -> None:
    svg = draw(forked)
    assert svg.count("url(#tip)") == 7  # nine boxes in a chain of eight: x, 4 slots, 2 runs, output
    assert svg.count("url(#arc)") == 1  # the skip


def test_everything_lies_inside(forked: lanac.Inspection) -> None:
    root = ElementTree.fromstring(draw(forked))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter():
        if element.tag.endswith("rect"):
            assert float(element.attrib.get("x", 0)) >= 0
            right = float(element.attrib.get("x", 0)) + float(element.attrib["width"])
            bottom = float(element.attrib.get("y", 0)) + float(element.attrib["height"])
            assert right <= width
            assert bottom <= height
    assert max(float(x) for x in re.findall(r"Q(\d+)", draw(forked))) < width


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(2, 30)).map(
            lambda pair: Edge(pair[0], pair[0] + pair[1], "")
        ),
        max_size=15,
    )
)
def test_arcs_of_one_lane_do_not_overlap(edges: list[Edge]) -> None:
    lanes = arc_lanes(edges)
    for first, lane in zip(edges, lanes, strict=True):
        for second, other in zip(edges, lanes, strict=True):
            if first is not second and lane == other:
                assert first.target <= second.source or second.target <= first.source


@pytest.mark.parametrize(
    ("edges", "lanes"),
    [
        ([], []),
        ([Edge(0, 2, ""), Edge(2, 4, "")], [0, 0]),
        ([Edge(0, 9, ""), Edge(2, 4, ""), Edge(3, 6, "")], [2, 0, 1]),
    ],
)
def test_short_arcs_lie_inside(edges: list[Edge], lanes: list[int]) -> None:
    assert arc_lanes(edges) == lanes
