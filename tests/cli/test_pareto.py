"""`lanac pareto`: a table, JSON and a picture, from what a compilation reuses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

SMALL = ("--distill-samples=32", "--score-samples=32", "--batch-size=16", "--pool=identity,slim")


@pytest.fixture
def pareto(lanac):
    """Runs `lanac pareto` with flops as the budget: nothing is timed."""
    flops = ("--resource=flops", "--points=5")
    return lambda *arguments: lanac("pareto", *arguments, *flops, *SMALL, small=False)


def test_a_front_as_table_json_and_picture(pareto, lanac, tiny, tmp_path):
    shown = pareto(tiny, "--svg", "front.svg")
    assert shown.status == 0, shown.err
    lines = [line.split() for line in shown.out.splitlines() if "x " in line and " of 7 " in line]
    assert len(lines) == 5
    assert lines[-1][0] == "1.000x"
    texts = [text.text for text in ET.parse(tmp_path / "front.svg").iter() if text.text]
    assert "flops, share of the teacher's" in texts

    told = pareto(tiny, "--json")
    record = json.loads(told.out)
    assert (record["schema"], record["resource"], record["predicted"]) == (1, "flops", True)
    points = record["points"]
    ratios = [point["ratio"] for point in points]
    assert ratios == sorted(ratios) and ratios[-1] == pytest.approx(1)
    for point in points:
        assert point["plan"]["costs"]["flops"] <= point["limit"]
        assert len(point["plan"]["ops"]) == 7
    scores = [point["plan"]["score"] for point in points]
    assert scores == sorted(scores, reverse=True)
    assert points[-1]["price"] is None and all(p["price"] >= 0 for p in points[:-1])
    assert "distilling" not in told.err  # all of it was kept


def test_a_compilation_goes_on_from_there(pareto, lanac, tiny):
    pareto(tiny)
    rest = ("--plans=2", "--evaluate-images=32", "--finetune-epochs=0", "--emit=pytorch")
    done = lanac(tiny, "--budget", "flops=0.6x", *SMALL, *rest, small=False)
    assert done.status == 0, done.err
    assert "distilling" not in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resource", "latncy"), "--resource 'latncy': unknown resource 'latncy'. Did you mean "
         "'latency'? Known: energy, flops, latency, params, size."),
        (("--resource", "memory"), "--resource 'memory': unknown resource 'memory'. "
         "Did you mean 'energy'? Known: energy, flops, latency, params, size."),
        (("--points", "1"), "--points 1: expected at least 2"),
        (("--svg", "front.png"), "--svg 'front.png': expected the name of an .svg file to write"),
    ],
)  # fmt: skip
def test_what_is_refused(lanac, tiny, arguments, message):
    outcome = lanac("pareto", tiny, *arguments, small=False)
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")
