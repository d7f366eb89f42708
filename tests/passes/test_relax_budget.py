"""What finalists leave of a latency budget is used; what they use up stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from lanac import run_passes
from lanac.ir import TEACHER
from lanac.passes import (
    DistillCandidates,
    EvaluatePlans,
    MeasureCosts,
    PrunePool,
    RelaxBudget,
    ScoreCandidates,
    SelectPlans,
    TimeFinalists,
)
from lanac.targets import FLOPS, LATENCY, Timing, parse_budgets

PREPARE = [
    MeasureCosts(),
    PrunePool(),
    DistillCandidates(samples=32, batch=16),
    ScoreCandidates(64, 32),
]
SEARCH = SelectPlans(plans=4)
EVALUATION = EvaluatePlans(images=64, first_images=64, batch=32, finalists=2)


@dataclass(frozen=True)
class Faked(TimeFinalists):
    """Whole networks take a share of what is predicted, another one each time finalists are timed."""

    shares: tuple[float, ...] = (1.0,)
    taken: list[float] | None = None

    def time(self, compilation, finalists):
        share = self.shares[min(len(self.taken), len(self.shares) - 1)]
        self.taken.append(share)
        return tuple(
            replace(
                item,
                latency=Timing(1.0, 1.0, 1.0, 1),
                costs={**item.plan.costs, LATENCY: share * item.plan.costs[LATENCY]},
            )
            for item in finalists
        )


def as_if_measured(compilation):
    """Latencies in proportion to flops, and scores to what is saved: the same on every machine."""
    costs, slots = compilation.costs, compilation.program.slots
    flops = costs.costs[FLOPS]
    added = {
        name: {**getattr(costs, name), LATENCY: getattr(costs, name)[FLOPS]}
        for name in ("costs", "constants", "teacher", "how")
    }
    (budget,) = parse_budgets("0.6x")
    return replace(compilation, budget=budget, tightening={LATENCY: 0.95}).having(
        costs=replace(costs, **added),
        scores={
            slot.name: {
                op: flops[slot.name][TEACHER] - flops[slot.name][op]
                for op in compilation.pool[slot.name]
            }
            for slot in slots
        },
    )


@pytest.fixture
def measured(start):
    def run(*shares):
        compilation = as_if_measured(run_passes(start("flops=0.6x", "identity,slim"), PREPARE))
        timing = Faked(shares=shares, taken=[])
        before = run_passes(compilation, [SEARCH, EVALUATION, timing])
        return before, run_passes(before, [RelaxBudget(SEARCH, EVALUATION, timing)]), timing.taken

    return run


def limit(compilation):
    return compilation.budget.absolute(compilation.costs.teacher)[LATENCY]


def test_what_is_left_is_used(measured):
    before, after, taken = measured(0.7)
    assert taken == [0.7, 0.7]
    assert after.tightening[LATENCY] == pytest.approx(0.95 / 0.7)
    assert after.chosen.loss < before.chosen.loss
    assert before.chosen.costs[LATENCY] < after.chosen.costs[LATENCY] <= 0.97 * limit(after)
    assert after.chosen.plan.costs[LATENCY] > limit(after)  # as predicted it would not be allowed
    left = 1 - before.chosen.costs[LATENCY] / limit(before)
    assert after.instruments.said[-1] == (
        f"the best finalist leaves {left:.0%} of the latency budget: selecting again for what is left"
    )
    # Everything that was measured stays a finalist, the best first.
    found = [item.plan.ops for item in after.finalists]
    assert len(set(found)) == len(found)
    assert {item.plan.ops for item in before.finalists} <= set(found)
    losses = [item.loss for item in after.finalists]
    assert losses == sorted(losses)


def test_what_is_predicted_right_stays_as_it_is(measured):
    before, after, taken = measured(1.0)
    assert after is before
    assert taken == [1.0]


def test_new_ones_that_are_too_slow_change_nothing(measured):
    before, after, taken = measured(0.7, 3.0)
    assert taken == [0.7, 3.0]
    assert after is before


def test_new_ones_that_are_a_little_too_slow_are_selected_once_more(measured):
    before, after, taken = measured(0.7, 0.8)
    assert taken == [0.7, 0.8, 0.8]
    assert after.tightening[LATENCY] == pytest.approx(0.95 / 0.8)
    assert after.chosen.costs[LATENCY] <= 0.97 * limit(after)
    assert after.chosen.loss <= before.chosen.loss


def test_what_was_not_measured_says_nothing(start):
    passes = [SEARCH, EVALUATION, TimeFinalists()]
    before = run_passes(start("flops=0.6x", "identity,slim"), [*PREPARE, *passes])
    assert run_passes(before, [RelaxBudget(SEARCH, EVALUATION)]) is before
