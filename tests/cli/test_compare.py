"""`lanac compare`: three comparisons as tables and JSON, a picture, and what is refused."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest

SMALL = (
    "--budget=flops=0.5x", "--distill-samples=32", "--score-samples=32", "--batch-size=16",
    "--pool=identity,slim(w=0.5),slim(w=0.25)", "--plans=3", "--search-evaluations=8",
    "--search-images=32", "--evaluate-images=32", "--finetune-samples=32", "--finetune-epochs=1",
)  # fmt: skip


@pytest.fixture
def compare(lanac):
    return lambda *arguments: lanac("compare", *arguments, *SMALL, small=False)


def test_three_comparisons_of_one_preparation(compare, lanac, tiny, tmp_path):
    shown = compare(tiny, "--methods", "scip,enas")
    assert shown.status == 0, shown.err
    rows = [line.split() for line in shown.out.splitlines() if line.startswith((" scip", " enas"))]
    assert [(row[0], row[1], row[-1].endswith("x")) for row in rows] == [
        ("scip", "0", True),
        ("enas", "8", True),
    ]
    assert "after 1 epoch of finetuning on 32 training samples, the same ones for all" in shown.out
    asked = compare(tiny, "--methods=scip,enas", "--json")
    assert asked.status == 0, asked.err
    told = json.loads(asked.out)
    assert (told["schema"], told["table"], told["budget"]) == (1, "methods", "flops=0.5x")
    assert told["finetuning"] == {"epochs": 1, "samples": 32, "learning_rate": 5e-4}
    for row, line in zip(told["rows"], rows, strict=True):
        assert (row["method"], f"{row['loss']:.4f}", f"{row['metric']:.2f}") == (
            line[0], line[3], line[4],
        )  # fmt: skip
        assert len(row["plan"]["ops"]) == 7
        assert row["measured_latency"] is None

    ranking = ("--show", "ranking", "--random-plans=20", "--ranking-plans=10")
    shown = compare(tiny, *ranking, "--svg", "ranking.svg")
    assert shown.status == 0, shown.err
    assert "Kendall's tau between predicted and measured loss: " in shown.out
    assert "distilling" not in shown.out  # prepared before
    picture = ET.parse(tmp_path / "ranking.svg")
    texts = [text.text for text in picture.iter() if text.text]
    assert "predicted loss" in texts and "best of K=1" in texts
    asked = compare(tiny, *ranking, "--json")
    assert asked.status == 0, asked.err
    told = json.loads(asked.out)
    assert sum(len(budget["drawn"]) for budget in told["budgets"]) == 20
    assert -1 <= told["tau_drawn"] <= 1

    shown = compare(tiny, "--show", "pools", "--pool-sizes", "3", "--repeats", "2")
    assert shown.status == 0, shown.err
    rows = [line.split() for line in shown.out.splitlines() if "10^" in line]
    assert [(row[0], row[3]) for row in rows] == [("3", "2"), ("all", "1")]
    asked = compare(tiny, "--show=pools", "--pool-sizes=3", "--repeats=2", "--json")
    assert asked.status == 0, asked.err
    told = json.loads(asked.out)
    assert [(row["size"], len(row["metrics"])) for row in told["rows"]] == [(3, 2), (None, 1)]


def test_a_compilation_with_another_search(lanac, tiny):
    rest = ("--search=evolution", "--search-evaluations=8", "--emit=pytorch", "--pool=skip")
    done = lanac(tiny, "--budget=flops=0.5x", *rest)
    assert done.status == 0, done.err
    assert re.search(r"evolution: [1-8] evaluations, .* s; [1-4] plans", done.out)
    assert "the budget flops=0.5x is met" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--show", "rankings"), "--show 'rankings': unknown comparison 'rankings'. Did you mean "
         "'ranking'? Known: methods, pools, ranking."),
        (("--methods", "scip,sans"), "--methods 'sans': unknown search method 'sans'. Did you mean "
         "'snas' or 'enas'? Known: enas, evolution, random, scip, snas."),
        (("--methods", ","), "--methods is empty; known: scip, random, evolution, snas, enas"),
        (("--show", "ranking", "--random-plans", "5"), "--random-plans 5: expected at least 20; the "
         "order of fewer says nothing"),
        (("--show", "pools", "--pool-sizes", "2,five"), "--pool-sizes '2,five': expected whole "
         "numbers separated by commas, such as 2,5,10; got 'five'"),
        (("--show", "pools", "--pool-sizes", "1"), "--pool-sizes: expected sizes of at least 2 (the "
         "teacher's op and another), got 1"),
        (("--svg", "table.svg"), "--svg draws the ranking; add --show ranking, or leave it out"),
        (("--show", "ranking", "--svg", "a.png"), "--svg 'a.png': expected the name of an .svg file "
         "to write"),
        (("--budget", "0.5x,0.3x"), "budget '0.5x,0.3x': a comparison takes one budget, got 2"),
    ],
)  # fmt: skip
def test_what_is_refused(lanac, tiny, arguments, message):
    outcome = lanac("compare", tiny, *arguments, small=False)
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")


def test_an_unknown_search_of_a_compilation_is_refused(lanac, tiny):
    outcome = lanac(tiny, "--search", "scipp")
    assert (outcome.status, outcome.err) == (
        1,
        "lanac: --search 'scipp': unknown search method 'scipp'. Did you mean 'scip'? Known: enas, "
        "evolution, random, scip, snas.\n",
    )
