"""Refinement: on losses that are known, and on the tiny network."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from lanac import Settings, choose_plan, run_passes
from lanac.compilation import RefineRound
from lanac.ir import TEACHER
from lanac.passes import (
    DistillCandidates,
    EvaluatePlans,
    MeasureCosts,
    PrunePool,
    RefinePlans,
    ScoreCandidates,
    SelectPlans,
    TimeFinalists,
    time_finalists,
)
from lanac.passes.evaluate_plans import PlanEvaluation
from lanac.passes.latency import Thoroughness
from lanac.targets import Effort, Timing

PREPARE = [
    MeasureCosts(Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))),
    PrunePool(),
    DistillCandidates(samples=32, batch=16),
    ScoreCandidates(64, 32),
]
EVALUATE = EvaluatePlans(96, first_images=48, batch=48)
CHOOSE = [SelectPlans(plans=3), EVALUATE, TimeFinalists()]


@pytest.fixture
def chosen(start):
    return run_passes(start("flops=0.6x", "identity,slim"), [*PREPARE, *CHOOSE])


def interacting(compilation):
    """The sum of the scores, and 0.01 for any two neighbours that are both changed."""

    def loss(ops):
        slots = compilation.program.slots
        total = sum(compilation.scores[s.name][op] for s, op in zip(slots, ops, strict=True))
        return (
            1.0
            + total
            + 0.01 * sum(TEACHER not in neighbours for neighbours in itertools.pairwise(ops))
        )

    return loss


def feasible(compilation):
    """Every plan within the budget."""
    slots, limit = compilation.program.slots, 0.6 * compilation.costs.teacher["flops"]
    plans = itertools.product(*(compilation.pool[slot.name] for slot in slots))
    return [ops for ops in plans if compilation.costs.total("flops", slots, ops) <= limit]


class TestOnALossThatIsKnown:
    @pytest.fixture
    def known(self, chosen, monkeypatch):
        loss = interacting(chosen)
        monkeypatch.setattr(
            PlanEvaluation,
            "losses",
            lambda self, networks, *_: {ops: loss(ops) for ops in networks},
        )
        return run_passes(chosen.having(chosen=None), CHOOSE), loss

    def test_it_ends_at_a_plan_that_no_change_within_the_budget_makes_better(self, known):
        compilation, loss = known
        refined = run_passes(compilation, [RefinePlans(9, evaluation=EVALUATE), TimeFinalists()])
        best = refined.chosen
        assert best.loss == loss(best.plan.ops) < compilation.chosen.loss
        for other in feasible(compilation):
            if sum(a != b for a, b in zip(other, best.plan.ops, strict=True)) == 1:
                assert loss(other) >= best.loss
        befores = [item.before for item in refined.refined]
        afters = [item.after for item in refined.refined]
        assert befores[0] == compilation.chosen.loss and befores[1:] == afters[:-1]
        assert afters[-1] == befores[-1]  # the last round found nothing
        assert refined.instruments.said[-1].startswith(
            f"refining lowered the loss from {befores[0]:.4f} to {best.loss:.4f}, with "
        )

    def test_the_new_plan_predicts_its_loss_around_the_old_one(self, known):
        """Exactly, where all pairs are measured; its score stays the sum of those in the teacher."""
        compilation, loss = known
        own, scores = (TEACHER,) * len(compilation.program.slots), compilation.scores
        step = RefinePlans(1, pairs=99, pair_ops=9, evaluation=EVALUATE)
        refined = run_passes(compilation, [step])
        new = [item.plan for item in refined.finalists if item.loss < compilation.chosen.loss]
        assert new
        for plan in new:
            assert plan.predicted == pytest.approx(loss(plan.ops) - loss(own))
            parts = zip(compilation.program.slots, plan.ops, strict=True)
            assert plan.score == pytest.approx(sum(scores[slot.name][op] for slot, op in parts))
        before = compilation.chosen.plan
        assert before.refined_score is None and before.predicted == before.score

    def test_with_pair_terms_it_finds_the_best_plan_at_once(self, known):
        """All pairs of slots, all their ops: the loss is pairwise, so the model is exact."""
        compilation, loss = known
        step = RefinePlans(1, pairs=99, pair_ops=9, evaluation=EVALUATE, gap=0.0)
        refined = run_passes(compilation, [step])
        found = min(item.loss for item in refined.finalists)
        assert found == pytest.approx(min(map(loss, feasible(compilation))))

    def test_a_plan_is_kept_only_where_it_is_better(self, known, monkeypatch):
        compilation, _ = known
        best = compilation.chosen.plan.ops
        monkeypatch.setattr(
            PlanEvaluation,
            "losses",
            lambda self, networks, *_: {ops: 0.5 if ops == best else 1.0 for ops in networks},
        )
        compilation = run_passes(compilation.having(chosen=None), CHOOSE)
        refined = run_passes(compilation, [RefinePlans(3, evaluation=EVALUATE)])
        assert refined.finalists == compilation.finalists
        [record] = refined.refined
        assert (record.before, record.after) == (0.5, 0.5)
        assert refined.instruments.said[-1] == (
            f"refining found no plan with a lower loss, with {record.networks + record.plans} "
            "more networks measured"
        )

    def test_a_loss_that_is_no_number_is_passed_over(self, known, monkeypatch):
        compilation, loss = known
        kept = {compilation.chosen.plan.ops, (TEACHER,) * len(compilation.program.slots)}
        monkeypatch.setattr(
            PlanEvaluation,
            "losses",
            lambda self, networks, *_: {
                ops: loss(ops) if ops in kept or "slim(w=0.25)" in map(str, ops) else math.nan
                for ops in networks
            },
        )
        refined = run_passes(compilation, [RefinePlans(2, pairs=3, evaluation=EVALUATE)])
        assert all(math.isfinite(item.loss) for item in refined.finalists)


def test_its_work_is_bounded(chosen, monkeypatch):
    asked = []
    losses = PlanEvaluation.losses

    def counted(self, networks, *arguments):
        asked.append(len(set(networks)))
        return losses(self, networks, *arguments)

    monkeypatch.setattr(PlanEvaluation, "losses", counted)
    step = RefinePlans(1, images=48, changes=5, pairs=2, pair_ops=1, plans=2, evaluation=EVALUATE)
    refined = run_passes(chosen, [step])
    probes, measured, *_ = asked
    slots = len(chosen.program.slots)
    assert probes <= 1 + slots + math.comb(slots, 2)
    assert measured <= 2 + 5 + 2
    assert refined.refined == (
        RefineRound(probes + measured, 2, chosen.chosen.loss, refined.refined[0].after),
    )


def test_a_second_run_measures_nothing(chosen, monkeypatch):
    step = RefinePlans(1, images=48, changes=6, plans=2, evaluation=EVALUATE)
    refined = run_passes(chosen, [step])
    monkeypatch.setattr(PlanEvaluation, "_measured", lambda *_: pytest.fail("measured"))
    again = run_passes(chosen, [step])
    assert again.finalists == refined.finalists and again.refined == refined.refined


def test_where_every_slot_is_fixed_nothing_is_looked_for(start):
    keep = [f"blocks.{place}" for place in range(4)]
    begun = start("flops=0.9x", "identity,slim", keep=[*keep, "stem*", "classifier*"])
    fixed = {**begun.restrictions.fixed}
    for slot in begun.program.slots:
        fixed.setdefault(slot.name, begun.pool[slot.name][-1])
    begun = begun.having(restrictions=replace(begun.restrictions, fixed=fixed))
    compilation = run_passes(begun, [*PREPARE, *CHOOSE])
    refined = run_passes(compilation, [RefinePlans(2, evaluation=EVALUATE)])
    assert refined.finalists == compilation.finalists
    assert refined.refined == ()


def test_only_new_plans_are_timed_and_what_fits_stays(start, monkeypatch):
    """The new plan is too slow: the one that was chosen before stays, with its timing."""
    compilation = run_passes(start("0.6x", "identity,slim"), [*PREPARE, SelectPlans(2), EVALUATE])
    calls = []

    def fake(compilation, networks, rounds, what):
        calls.append(len(networks) - 1)
        ms = 5.0 if len(calls) == 1 else 7.0
        return [Timing(value, value, value, 1) for value in (10.0, *[ms] * (len(networks) - 1))]

    monkeypatch.setattr(time_finalists, "time_networks", fake)
    compilation = run_passes(compilation, [TimeFinalists()])
    first = compilation.chosen
    new = [
        replace(item, loss=item.loss / 2, latency=None, costs={}, fits=False)
        for item in compilation.finalists[1:]
    ]
    old = tuple(item for item in compilation.finalists if item.plan.ops == first.plan.ops)
    done = TimeFinalists().run(compilation.having(finalists=(*new, *old)))
    assert calls == [2, 1]
    assert done.chosen == first
    assert [item.fits for item in done.finalists] == [False, True]


@pytest.mark.parametrize(
    ("settings", "refined", "tried"),
    [
        (Settings(plans=3, evaluate_images=64, finalist_steps=2), True, True),
        (Settings(plans=3, evaluate_images=64, finalist_steps=0), True, False),
        (Settings(plans=3, evaluate_images=64, refine=0, finalist_steps=2), False, True),
        (Settings(plans=3, evaluate_images=64, finetune_epochs=0), True, False),
        (Settings(plans=3, evaluate_images=64, finetune_epochs=0, search="random"), False, False),
    ],
)
def test_settings_say_what_is_done_before_a_plan_is_chosen(start, settings, refined, tried):
    """Without finetuning there is no use in trying who finetunes best."""
    compilation = run_passes(start("flops=0.6x", "identity,slim"), PREPARE)
    done = choose_plan(compilation, settings)
    assert (len(done.refined) > 0) == refined
    assert any(item.trial is not None for item in done.finalists) == tried
    assert done.chosen in done.finalists
