"""Costs, guard and choice for a target that is not here."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lanac import run_passes
from lanac.compilation import Finalist
from lanac.errors import TargetError
from lanac.ir import IDENTITY, TEACHER
from lanac.passes import MeasureCosts, SelectPlans, TimeFinalists, time_finalists
from lanac.passes.guard_budget import SAFE, START, GuardBudget, meeting_probabilities
from lanac.targets import parse_budgets
from lanac.targets.predicted import Anchor

V100 = "v100:tensorrt:fp16:b128"


@pytest.fixture
def predicted(start):
    return run_passes(start("0.6x", "identity,slim", target=V100), [MeasureCosts()])


def with_absolute_budget(compilation, ratio):
    """A budget in milliseconds: so much of what the teacher is predicted to take."""
    limit = ratio * compilation.costs.teacher["latency_ms"]
    (budget,) = parse_budgets(f"{limit:.6f}ms")
    return replace(compilation, budget=budget)


def with_scores(compilation):
    """What an op saves is what it loses: every budget binds."""
    costs = compilation.costs
    scores = {
        slot.name: {
            op: costs.costs["latency_ms"][slot.name][TEACHER]
            - costs.costs["latency_ms"][slot.name][op]
            for op in compilation.pool[slot.name]
        }
        for slot in compilation.program.slots
    }
    return compilation.having(scores=scores)


def test_what_is_not_here_is_predicted_and_says_so(predicted):
    costs, slots = predicted.costs, predicted.program.slots
    assert costs.how["latency_ms"] == "predicted"
    assert costs.how["params"] == "counted"
    assert costs.prediction is not None
    assert costs.error == costs.prediction.teacher.ratio_error > 0
    total = costs.total("latency_ms", slots, [TEACHER] * len(slots))
    assert total == pytest.approx(costs.teacher["latency_ms"])
    for slot in slots:
        own = costs.costs["latency_ms"][slot.name]
        assert own.get(IDENTITY, 0.0) == 0.0
        assert all(ms > 0 for op, ms in own.items() if op != IDENTITY)


def test_equal_blocks_cost_the_same(predicted):
    table = predicted.costs.costs["latency_ms"]
    assert table["blocks.0"] == pytest.approx(table["blocks.1"])


def test_one_measured_network_brings_everything_to_its_scale(start, predicted):
    teacher = predicted.costs.prediction.teacher
    anchor = Anchor("mine", teacher, 2 * teacher.latency_ms)
    compilation = start("0.6x", "identity,slim", out="other", target=V100, anchors=[anchor])
    anchored = run_passes(compilation, [MeasureCosts()])
    costs, slots = anchored.costs, anchored.program.slots
    assert costs.teacher["latency_ms"] == pytest.approx(2 * teacher.latency_ms, rel=0.05)
    assert costs.total("latency_ms", slots, [TEACHER] * len(slots)) == pytest.approx(
        costs.teacher["latency_ms"]
    )
    assert costs.error < predicted.costs.error
    assert costs.prediction.teacher.anchors == ("mine",)


def test_a_target_that_nothing_tells_of_is_refused_at_once(start):
    with pytest.raises(TargetError) as caught:
        start("0.6x", "skip", target="cuda:b4")
    assert str(caught.value) == (
        "latency on cuda:pytorch:fp16:b4:t1 can neither be measured here (this machine has no CUDA "
        "device that torch can use) nor predicted: target 'cuda:pytorch:fp16:b4:t1': cuda stands for "
        "this machine's first CUDA device, of which no figures are known, so its latency can only "
        "be measured there; name the "
        "device, such as rtx3090. Measure a cost table there with `lanac measure` and give it with "
        "--costs, or limit params or flops instead of latency"
    )
    start("flops=0.6x", "skip", target="cuda:b4")


class TestGuard:
    def test_what_is_timed_gets_room_for_noise(self, start):
        compilation = start("0.6x", "skip")
        costs = replace(measured_like(compilation), prediction=None)
        done = GuardBudget().run(compilation.having(costs=costs))
        assert done.tightening == {"latency_ms": START}

    def test_a_budget_without_latency_is_left_alone(self, start):
        done = GuardBudget().run(start("flops=0.6x", "skip"))
        assert done.tightening == {}

    @pytest.mark.parametrize("budget", ["0.6x", "absolute"])
    def test_plans_meet_the_budget_in_four_of_five_tables(self, predicted, budget):
        compilation = with_scores(predicted)
        if budget == "absolute":
            compilation = with_absolute_budget(compilation, 0.8)
        (naive,) = SelectPlans(plans=1).run(compilation).plans
        (careless,) = meeting_probabilities(compilation, [naive])
        guarded = GuardBudget().run(compilation)
        assert 0.3 < guarded.tightening["latency_ms"] <= 1
        (plan,) = SelectPlans(plans=1).run(guarded).plans
        (careful,) = meeting_probabilities(guarded, [plan])
        assert careful >= max(SAFE - 0.05, careless)
        assert guarded.instruments.said[-1].endswith("met with a probability of 80%")

    def test_where_no_plan_is_safe_the_likeliest_is_taken_and_that_is_said(self, predicted):
        compilation = with_absolute_budget(with_scores(predicted), 0.6)
        (naive,) = SelectPlans(plans=1).run(compilation).plans
        (careless,) = meeting_probabilities(compilation, [naive])
        guarded = GuardBudget().run(compilation)
        (plan,) = SelectPlans(plans=1).run(guarded).plans
        (careful,) = meeting_probabilities(guarded, [plan])
        assert careless < careful < SAFE
        assert guarded.instruments.said[-1].endswith(
            f"met with a probability of 80%; the likeliest plan does with {careful:.0%}"
        )

    def test_an_absolute_budget_fears_a_wrong_scale_too(self, predicted):
        """What is wrong for all kernels alike cancels in a ratio, not in milliseconds."""
        compilation = with_scores(predicted)
        (plan,) = SelectPlans(plans=1).run(compilation).plans
        (relative,) = meeting_probabilities(compilation, [plan])
        (absolute,) = meeting_probabilities(with_absolute_budget(compilation, 0.6), [plan])
        assert absolute < relative


def measured_like(compilation):
    return run_passes(replace(compilation, resources=("flops",)), [MeasureCosts()]).costs


@pytest.fixture
def finalists(predicted, monkeypatch):
    """Two plans, the first with the lower loss; their chances and whole latencies are faked."""

    def make(chances, ratios):
        teacher = predicted.costs.prediction.teacher.latency_ms
        wholes = iter([SimpleNamespace(latency_ms=ratio * teacher) for ratio in ratios])
        monkeypatch.setattr(time_finalists, "meeting_probabilities", lambda *_: chances)
        monkeypatch.setattr(time_finalists, "assemble_student", lambda *_: None)
        monkeypatch.setattr(time_finalists, "folded", lambda network: network)
        monkeypatch.setattr(time_finalists, "predicted_whole", lambda *_: next(wholes))
        plans = SelectPlans(plans=2).run(with_scores(predicted)).plans
        losses = zip((plans[0], plans[-1]), (0.2, 0.3), strict=True)
        return predicted.having(
            finalists=tuple(Finalist(plan, loss, 0.1, 99) for plan, loss in losses)
        )

    return make


@pytest.mark.parametrize(
    ("chances", "ratios", "chosen"),
    [
        ([0.85, 0.95], [0.5, 0.5], 0),
        ([0.5, 0.9], [0.5, 0.5], 1),
        ([0.3, 0.5], [0.5, 0.5], 1),
        ([0.4, 0.4], [0.5, 0.5], 0),
        ([0.9, 0.5], [0.65, 0.5], 1),
    ],
    ids=["both are safe", "one is safe", "none is safe", "equally unsafe", "safe in parts alone"],
)
def test_finalists_are_chosen_among_those_that_most_likely_meet_the_budget(
    finalists, chances, ratios, chosen
):
    done = TimeFinalists().run(finalists(chances, ratios))
    assert [item.probability for item in done.finalists] == chances
    assert done.chosen == done.finalists[chosen]
    assert done.chosen.latency is None
    teacher = done.costs.teacher["latency_ms"]
    assert done.chosen.costs["latency_ms"] == pytest.approx(ratios[chosen] * teacher)
    assert done.instruments.said[-1].startswith("the finalists are not timed: ")


def test_what_is_slower_as_a_whole_than_in_parts_tightens_the_budget(finalists):
    done = TimeFinalists().run(finalists([0.9, 0.9], [0.65, 0.7]))
    assert done.chosen is None
    assert done.tightening["latency_ms"] < 0.98
    assert done.instruments.said[-1].startswith(
        "the fastest finalist was predicted as a whole at 0.650x of the teacher, predicted "
    )
    assert done.instruments.said[-1].endswith("with 0.600x allowed: tightening")
