"""Where all plans are far from the teacher, each kind of ops has one among the finalists."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lanac import run_passes
from lanac.errors import InfeasibleBudgetError
from lanac.ir import IDENTITY, TEACHER
from lanac.ops.pool import inherits
from lanac.passes import (
    DistillCandidates,
    EvaluatePlans,
    MeasureCosts,
    PrunePool,
    ScoreCandidates,
    SelectPlans,
    TimeFinalists,
    TuneFinalists,
    WidenFinalists,
)
from lanac.passes.base import Pass
from lanac.training.finetune import FinetuneOptions

PREPARE: list[Pass] = [
    MeasureCosts(),
    PrunePool(),
    DistillCandidates(samples=32, batch=16),
    ScoreCandidates(64, 32),
]
SEARCH = SelectPlans(plans=4)
EVALUATION = EvaluatePlans(images=64, first_images=64, batch=32, finalists=1)


@pytest.fixture
def timed(start):
    def run(pool):
        passes: list[Pass] = [*PREPARE, SEARCH, EVALUATION, TimeFinalists()]
        return run_passes(start("flops=0.6x", pool), passes)

    return run


def kind(item):
    return {inherits(op) for op in item.plan.ops if op not in (TEACHER, IDENTITY)}


def mixed(before):
    """As if the best plan had been one of both kinds of ops."""
    slots, pool = before.program.slots, before.pool
    ops = list(before.chosen.plan.ops)
    free = [
        i for i, slot in enumerate(slots) if {inherits(op) for op in pool[slot.name]} != {False}
    ]
    for place, wanted in zip(free, (True, False), strict=False):
        ops[place] = next(
            op
            for op in pool[slots[place].name]
            if op not in (TEACHER, IDENTITY) and inherits(op) is wanted
        )
    chosen = replace(before.chosen, plan=replace(before.chosen.plan, ops=tuple(ops)))
    assert kind(chosen) == {True, False}
    return before.having(finalists=(chosen,), chosen=chosen)


def test_the_best_plan_of_each_kind_is_added(timed):
    before = mixed(timed("identity,slim,efn(e=1,k=3,se=0)"))
    after = run_passes(before, [WidenFinalists(SEARCH, EVALUATION, far=0.0)])
    assert after.finalists[0] == after.chosen == before.chosen
    inheriting, fresh = after.finalists[1:]
    assert kind(inheriting) <= {True} and kind(fresh) <= {False}
    assert inheriting.fits and fresh.fits
    assert after.instruments.said[-1] == (
        f"the best plan loses {before.chosen.loss:.3f} before finetuning, the teacher "
        f"{before.chosen.teacher_loss:.3f}: trying 2 more of ops of one kind alone"
    )


def test_each_kind_is_tried_whatever_its_loss_was(timed):
    before = mixed(timed("identity,slim,efn(e=1,k=3,se=0)"))
    widened = run_passes(before, [WidenFinalists(SEARCH, EVALUATION, far=0.0)])
    # The chosen one again, as if it were better than all others: it has the same kind.
    better = replace(widened.chosen, loss=0.0)
    finalists = (better, *widened.finalists)
    options = FinetuneOptions(batch=16, steps=1)
    after = TuneFinalists(options, most=1).run(widened.having(finalists=finalists, chosen=better))
    tried = [item.plan.ops for item in after.finalists if item.trial is not None]
    assert set(tried) == {item.plan.ops for item in widened.finalists}


def test_near_the_teacher_nothing_is_added(timed):
    before = timed("identity,slim,efn(e=1,k=3,se=0)")
    assert run_passes(before, [WidenFinalists(SEARCH, EVALUATION, far=math.inf)]) is before


def test_a_pool_of_one_kind_has_no_other_plans(timed):
    before = timed("identity,slim")
    after = run_passes(before, [WidenFinalists(SEARCH, EVALUATION, far=0.0)])
    assert after.finalists == before.finalists
    assert after.instruments.said == before.instruments.said


def test_a_kind_that_cannot_meet_the_budget_adds_nothing(timed, monkeypatch):
    before = mixed(timed("identity,slim,efn(e=1,k=3,se=0)"))

    def none(self, compilation):
        raise InfeasibleBudgetError("none")

    monkeypatch.setattr(SelectPlans, "run", none)
    after = run_passes(before, [WidenFinalists(SEARCH, EVALUATION, far=0.0)])
    assert after.finalists == before.finalists
