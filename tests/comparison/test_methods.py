"""Table 5: every method at the same budget, chosen and finetuned alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lanac.comparison import compare_methods, methods
from lanac.comparison.finetuned import EqualFinetuning
from lanac.compilation import Finalist
from lanac.ir import TEACHER, Plan
from lanac.passes import TimeFinalists, search_plans
from lanac.passes.evaluate_plans import PlanEvaluation
from lanac.passes.search_plans import SEARCHES
from lanac.targets import Timing, parse_budgets
from lanac.training.finetune import FinetuneOptions


def test_every_method_keeps_the_budget(prepared, settings, little):
    table = compare_methods(prepared, SEARCHES, settings, little)
    limit = 0.5 * prepared.costs.teacher["flops"]
    assert [row.method for row in table.rows] == list(SEARCHES)
    for row in table.rows:
        assert row.finalist.costs["flops"] <= limit
        assert row.evaluations == (0 if row.method == "scip" else 10)
        assert row.plans == 4
        assert row.seconds == row.search_seconds + row.evaluate_seconds > 0
        assert row.finalist.images == 64
        assert 0 <= row.metric <= 100
    assert table.teacher_metric > 90


def test_a_second_table_is_the_first(prepared, settings, little, monkeypatch):
    """Nothing is searched, judged or finetuned again, and what it cost stays."""
    some = ("scip", "evolution")
    first = compare_methods(prepared, some, settings, little)
    monkeypatch.setattr(methods, "_searched", lambda *_: pytest.fail("searched again"))
    monkeypatch.setattr(
        "lanac.comparison.finetuned.FinetuneStudent", lambda *_: pytest.fail("finetuned again")
    )
    again = compare_methods(prepared, some, settings, little)
    for one, two in zip(first.rows, again.rows, strict=True):
        assert one.finalist.plan.ops == two.finalist.plan.ops
        assert (one.seconds, one.metric) == (two.seconds, two.metric)


def test_choosing_costs_what_it_costs_whatever_is_known(prepared, settings, little, monkeypatch):
    """Its plans were evaluated by a compilation before, perhaps: that must not make it cheaper."""
    loaded = []
    original = PlanEvaluation._load

    def load(self, part):
        loaded.append(len(part))
        return original(self, part)

    monkeypatch.setattr(PlanEvaluation, "_load", load)
    counts = []
    for seed_images in (65, 66):  # other keys: not the stored row
        loaded.clear()
        comparison = replace(little, search_images=seed_images)
        compare_methods(prepared, ("scip",), settings, comparison)
        counts.append(sum(loaded))
    assert counts[0] == counts[1] >= 64


def test_latencies_are_measured_in_one_run(prepared, settings, little, monkeypatch):
    measured = []

    def fake(self, compilation, finalists):
        measured.append(len(finalists))
        times = Timing(1.0, 1.0, 1.0, 1), Timing(2.0, 2.0, 2.0, 1)
        return tuple(
            replace(item, latency=times[0], teacher_latency=times[1], costs={"latency_ms": 0.5})
            for item in finalists
        )

    monkeypatch.setattr(TimeFinalists, "time", fake)
    monkeypatch.setattr(
        "lanac.passes.select_plans.tightened_limits",
        lambda compilation: {"flops": 0.5 * compilation.costs.teacher["flops"]},
    )
    budget = parse_budgets("0.5x")[0]
    costs = replace(prepared.costs, teacher={**prepared.costs.teacher, "latency_ms": 1.0})
    table = compare_methods(
        replace(prepared, budget=budget, costs=costs), ("scip", "random"), settings, little
    )
    assert measured == [2]
    assert [row.finalist.latency.median_ms for row in table.rows] == [1.0, 1.0]


def test_all_learn_from_the_same_samples(prepared, monkeypatch):
    seen = []

    class Fake:
        def __init__(self, options):
            self.options = options

        name, needs, provides = "finetune_student", ("chosen",), ()

        def run(self, compilation):
            seen.append(compilation.task.train.batch(range(8)).inputs[0])
            raise KeyboardInterrupt

    monkeypatch.setattr("lanac.comparison.finetuned.FinetuneStudent", Fake)
    plan = Finalist(Plan((TEACHER,) * 7, 0.0), 0.1, 0.1, 1)
    for count in (8, 8, 10_000):
        with pytest.raises(KeyboardInterrupt):
            EqualFinetuning(FinetuneOptions(3), count).metric(prepared, plan)
    assert (seen[0] == seen[1]).all()
    assert not (seen[0] == seen[2]).all()


def test_the_pass_and_the_table_have_the_same_methods():
    assert ("scip", *search_plans.METHODS) == SEARCHES
