"""Plans: selected, evaluated in rounds, timed, and selected again where they are too slow."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lanac import Settings, choose_plan, run_passes
from lanac.compilation import Finalist, Trial
from lanac.errors import InfeasibleBudgetError, TrainingError
from lanac.ir import TEACHER
from lanac.passes import (
    DistillCandidates,
    EvaluatePlans,
    MeasureCosts,
    PrunePool,
    ScoreCandidates,
    SelectPlans,
    TimeFinalists,
    TuneFinalists,
    select_plans,
    time_finalists,
)
from lanac.passes import evaluate_plans as evaluation
from lanac.passes.assemble import DISTILLED, assemble_student, load_op
from lanac.passes.latency import Thoroughness
from lanac.passes.score_candidates import evaluation_indices
from lanac.solver import SelectionStatus, solve
from lanac.targets import Effort, Timing
from lanac.targets.budget import parse_budgets
from lanac.training.batch_norm import current_statistics
from lanac.training.checkpoint import CheckpointClock
from lanac.training.data import in_order
from lanac.training.finetune import FinetuneOptions, Finetuner, Measured
from lanac.workspace import Workspace

QUICK = Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))

PREPARE = [
    MeasureCosts(QUICK),
    PrunePool(),
    DistillCandidates(samples=32, batch=16),
    ScoreCandidates(64, 32),
]


def prepared(start, budget, pool="identity,slim"):
    return run_passes(start(budget, pool), PREPARE)


class TestSelect:
    def test_plans_meet_the_budget_and_differ(self, start):
        compilation = run_passes(prepared(start, "flops=0.6x"), [SelectPlans(plans=6)])
        plans = compilation.plans
        limit = 0.6 * compilation.costs.teacher["flops"]
        assert len(plans) == 6
        assert all(plan.costs["flops"] <= limit for plan in plans)
        assert [plan.score for plan in plans] == sorted(plan.score for plan in plans)
        slots = len(compilation.program.slots)
        for place, plan in enumerate(plans):
            for other in plans[:place]:
                same = sum(a == b for a, b in zip(plan.ops, other.ops, strict=True))
                assert same <= math.floor(0.7 * slots)

    def test_peak_memory_forbids_ops(self, start):
        compilation = run_passes(prepared(start, "memory=0.9x"), [SelectPlans(plans=2)])
        limit = 0.9 * compilation.costs.teacher["memory_bytes"]
        table = compilation.costs.costs["memory_bytes"]
        for plan in compilation.plans:
            for slot, op in zip(compilation.program.slots, plan.ops, strict=True):
                assert table[slot.name][op] <= limit
            assert plan.costs["memory_bytes"] <= limit

    def test_fewer_plans_than_asked_for_are_said(self, start):
        compilation = prepared(start, "flops=0.35x", "skip")
        compilation = run_passes(compilation, [SelectPlans(plans=30)])
        count = len(compilation.plans)
        assert count < 30
        assert compilation.instruments.said[-1] == (
            f"only {count} of 30 plans exist that differ enough"
        )

    def test_plans_that_take_too_long_exactly_are_found_with_a_gap(self, start, monkeypatch):
        """As if time had run out after the second plan."""
        compilation = prepared(start, "flops=0.6x")
        exact = run_passes(compilation, [SelectPlans(plans=6)])
        calls = []

        def hurried(problem, **options):
            calls.append((problem, options))
            if len(calls) > 1:
                return solve(problem, **options)
            some = solve(replace(problem, plan_count=2), **options)
            return replace(some, status=SelectionStatus.FEASIBLE)

        monkeypatch.setattr(select_plans, "solve", hurried)
        found = run_passes(compilation, [SelectPlans(plans=6, exact_s=7.0)])
        first, second = calls
        assert first[1]["time_limit_s"] == 7.0
        assert second[1]["gap"] == 0.02 and second[0].plan_count == 4
        assert len(second[0].earlier) == 2
        assert len(found.plans) == 6
        assert found.plans[:2] == exact.plans[:2]
        assert all(plan.gap <= 0.02 for plan in found.plans)
        slots = len(compilation.program.slots)
        for place, plan in enumerate(found.plans):
            for other in found.plans[:place]:
                same = sum(a == b for a, b in zip(plan.ops, other.ops, strict=True))
                assert same <= math.floor(0.7 * slots)

    def test_tightening_is_named(self, start):
        compilation = prepared(start, "flops=0.4x", "skip").having(tightening={"flops": 0.25})
        with pytest.raises(InfeasibleBudgetError) as error:
            run_passes(compilation, [SelectPlans()])
        assert str(error.value) == (
            "budget flops=0.4x cannot be met with the margin that measured networks need. "
            "flops: the smallest reachable is 1.07 MFLOP (0.168x), the limit is 638.23 kFLOP "
            "(0.100x). Give a larger budget, or a larger pool (--pool)."
        )


class TestEvaluate:
    @pytest.mark.parametrize(
        ("images", "plans", "available", "rounds"),
        [
            (6000, 32, 60_000, [(32, 256), (16, 512), (8, 1024), (4, 2048), (3, 6000)]),
            (6000, 2, 60_000, [(2, 256), (2, 6000)]),
            (128, 32, 60_000, [(32, 128)]),
            (6000, 32, 540, [(32, 256), (16, 512), (8, 540)]),
        ],
    )
    def test_better_half_sees_twice_as_many_images(self, images, plans, available, rounds):
        assert EvaluatePlans(images=images).rounds(available, plans) == rounds

    def test_the_best_are_kept_in_order(self, start):
        compilation = prepared(start, "flops=0.6x")
        compilation = run_passes(
            compilation,
            [SelectPlans(plans=6), EvaluatePlans(images=200, first_images=60, batch=50)],
        )
        losses = [item.loss for item in compilation.finalists]
        assert len(losses) == 3
        assert losses == sorted(losses)
        assert {item.images for item in compilation.finalists} == {200}

    def test_plans_with_nan_are_no_finalists(self, start, monkeypatch):
        compilation = run_passes(prepared(start, "flops=0.6x"), [SelectPlans(plans=4)])
        good = compilation.plans[3].ops
        teacher = (TEACHER,) * len(good)
        original = evaluation.PlanEvaluation.losses

        def broken(self, networks, *arguments):
            found = original(self, networks, *arguments)
            keep = (good, teacher)
            return {ops: loss if ops in keep else math.nan for ops, loss in found.items()}

        monkeypatch.setattr(evaluation.PlanEvaluation, "losses", broken)
        step = EvaluatePlans(images=300, first_images=50, batch=50, finalists=1)
        compilation = run_passes(compilation, [step])
        assert [item.plan.ops for item in compilation.finalists] == [good]
        good = None
        with pytest.raises(TrainingError) as error:
            run_passes(compilation, [step])
        assert str(error.value) == (
            "the loss of every plan is infinite or not a number; give a larger budget, or more "
            "distillation (--distill-samples)"
        )


class TestTime:
    """Times are faked: the teacher takes 10 ms, the finalists what a test says."""

    @pytest.fixture
    def faked(self, start, monkeypatch):
        compilation = run_passes(prepared(start, "0.6x"), [SelectPlans(plans=3)])
        times = []

        def fake(compilation, networks, rounds, what):
            return [Timing(ms, ms, ms, rounds) for ms in (10.0, *times)][: len(networks)]

        monkeypatch.setattr(time_finalists, "time_networks", fake)

        def finalists(*items):
            times[:] = [ms for ms, _ in items]
            found = [
                Finalist(plan, loss, 0.1, 100)
                for plan, (_, loss) in zip(compilation.plans, items, strict=False)
            ]
            return compilation.having(finalists=tuple(found))

        return finalists

    def test_the_best_that_fits_is_chosen(self, faked):
        compilation = faked((7.0, 0.1), (5.0, 0.3), (5.5, 0.2))
        done = TimeFinalists().run(compilation)
        assert done.chosen.latency.median_ms == 5.5
        assert done.tightening == {}

    def test_a_margin_is_kept(self, faked):
        """5.95 of 10 ms is below 0.6x, but by less than three percent."""
        done = TimeFinalists().run(faked((5.95, 0.1), (5.7, 0.2)))
        assert done.chosen.latency.median_ms == 5.7

    def test_the_budget_is_tightened_by_what_was_predicted_too_low(self, faked):
        compilation = faked((8.0, 0.1), (7.0, 0.2))
        done = TimeFinalists().run(compilation)
        assert done.chosen is None
        teacher = done.costs.teacher["latency_ms"]
        ratios = [
            item.plan.costs["latency_ms"] / (share * teacher)
            for item, share in zip(done.finalists, (0.8, 0.7), strict=True)
        ]
        expected = 0.95 * sum(ratios) / 2
        assert done.tightening["latency_ms"] == pytest.approx(expected)
        assert done.instruments.said[-1].startswith(
            "the fastest finalist was measured at 0.700x of the teacher, predicted "
        )
        assert done.instruments.said[-1].endswith(
            "with 0.600x allowed, 3% of it kept for noise: tightening"
        )
        # The same again: it goes on a little lower, it does not stand still.
        again = TimeFinalists().run(done)
        assert again.tightening["latency_ms"] == pytest.approx(0.98 * expected)

    def test_what_is_counted_needs_no_timing(self, start, monkeypatch):
        monkeypatch.setattr(time_finalists, "time_networks", lambda *_, **__: pytest.fail("timed"))
        compilation = run_passes(prepared(start, "flops=0.6x", "skip"), [SelectPlans(plans=1)])
        compilation = compilation.having(finalists=(Finalist(compilation.plans[0], 0.2, 0.1, 9),))
        done = TimeFinalists().run(compilation)
        assert done.chosen.costs == compilation.plans[0].costs

    def test_a_budget_that_stays_broken_is_given_up(self, start, monkeypatch):
        """Every finalist is measured at 0.65x, whatever is selected."""

        def fake(compilation, networks, rounds, what):
            return [Timing(ms, ms, ms, 1) for ms in (10.0, *[6.5] * (len(networks) - 1))]

        compilation = prepared(start, "0.6x")
        monkeypatch.setattr(time_finalists, "time_networks", fake)
        settings = Settings(plans=2, evaluate_images=64, finalists=1)
        with pytest.raises(InfeasibleBudgetError) as error:
            choose_plan(compilation.having(budget=parse_budgets("0.6x")[0]), settings)
        assert "tightening" in str(error.value)


class TestLosses:
    """Networks together, as many as there are, against each of them rewritten and run alone."""

    @staticmethod
    def alone(compilation, ops, images, batch):
        task, program = compilation.task, compilation.program
        chosen = {
            slot.name: load_op(compilation, slot, op)
            for slot, op in zip(program.slots, ops, strict=True)
        }
        network = program.rewrite(chosen).eval()
        indices = evaluation_indices(len(task.train), images, compilation.seed)
        total = 0.0
        for part in in_order(images, batch):
            [samples] = task.train.batches([[indices[place] for place in part]], compilation.seed)
            with torch.no_grad():
                reference = None if task.labelled else program.teacher(*samples.inputs)
                with current_statistics(network):
                    outputs = network(*samples.inputs)
            total += float(task.loss(outputs, samples, reference)) * len(part)
        return total / images

    @pytest.mark.parametrize("labelled", [True, False])
    def test_they_are_those_of_each_network_alone(self, start, labelled):
        compilation = run_passes(prepared(start, "flops=0.6x"), [SelectPlans(plans=6)])
        task = replace(compilation.task, labelled=labelled)
        compilation = compilation.having(task=task)
        networks = [(TEACHER,) * len(compilation.program.slots)]
        networks += [plan.ops for plan in compilation.plans]
        steps = []
        found = evaluation.PlanEvaluation(compilation, 32, 90).losses(networks, 90, steps.append)
        assert len(steps) == 3 * len(networks)
        for ops in networks:
            assert found[ops] == self.alone(compilation, ops, 90, 32)

    def test_a_stopped_run_goes_on(self, start):
        compilation = run_passes(prepared(start, "flops=0.6x"), [SelectPlans(plans=4)])
        networks = [plan.ops for plan in compilation.plans]

        def stopping(steps):
            counted.append(steps)
            if len(counted) == 6:  # in the middle of the second batch
                raise KeyboardInterrupt

        counted = []
        with pytest.raises(KeyboardInterrupt):
            evaluation.PlanEvaluation(compilation, 32, 96).losses(networks, 96, stopping)
        ran = []
        again = evaluation.PlanEvaluation(compilation, 32, 96)
        measured = again._measured
        again._measured = lambda networks, batch: measured(
            ran.append(len(networks)) or networks, batch
        )
        found = again.losses(networks, 96, lambda steps: None)
        assert ran == [2, 4]
        assert found == {ops: self.alone(compilation, ops, 96, 32) for ops in networks}


class TestTune:
    """Three finalists; the short finetuning is faked where its losses are what matters."""

    OPTIONS = FinetuneOptions(batch=50, steps=3)

    @pytest.fixture
    def finalists(self, start):
        compilation = run_passes(prepared(start, "flops=0.6x"), [SelectPlans(plans=3)])
        found = tuple(
            Finalist(plan, 0.1 * place, 0.1, 100, costs=plan.costs, fits=place != 1)
            for place, plan in enumerate(compilation.plans)
        )
        return compilation.having(finalists=found, chosen=found[0])

    def test_each_that_fits_is_tried_and_the_best_is_chosen(self, finalists, monkeypatch):
        """By its loss on the held-out samples, whatever its loss was before."""
        first, second, third = finalists.finalists
        done = TuneFinalists(self.OPTIONS).run(finalists)
        assert done.finalists[1] == second
        trials = [done.finalists[place].trial for place in (0, 2)]
        assert [trial.steps for trial in trials] == [3, 3]
        assert [trial.samples for trial in trials] == [len(done.task.held_out)] * 2
        best = min((0, 2), key=lambda place: done.finalists[place].trial.after)
        assert done.chosen == done.finalists[best]
        for item, trial in zip((first, third), trials, strict=True):
            student = assemble_student(done, item.plan.ops)
            tuner = Finetuner(
                student, done.program.teacher, done.task, self.OPTIONS, done.seed, done.device
            )
            losses = [
                epoch["held_out_loss"] for epoch in tuner.run(lambda _: None, lambda _: None).epochs
            ]
            assert [trial.before, trial.after] == losses

    def test_nothing_is_tried_where_there_is_no_choice(self, finalists, monkeypatch):
        monkeypatch.setattr(TuneFinalists, "_trial", lambda *_: pytest.fail("tried"))
        few = tuple(
            replace(item, fits=place == 2) for place, item in enumerate(finalists.finalists)
        )
        alone = finalists.having(finalists=few, chosen=few[2])
        assert TuneFinalists(self.OPTIONS).run(alone) == alone
        none = FinetuneOptions(steps=0)
        assert TuneFinalists(none).run(finalists) == finalists

    def test_a_stopped_run_goes_on(self, finalists, monkeypatch):
        """Stopped in the second trial; the first is not made again, the second goes on."""
        expected = TuneFinalists(self.OPTIONS).run(finalists)
        stopped = replace(finalists, seed=finalists.seed + 1)
        undisturbed = TuneFinalists(self.OPTIONS).run(stopped)
        assert undisturbed.finalists != expected.finalists
        again = replace(stopped, workspace=Workspace(stopped.out / "other"))
        for slot, ops in finalists.weights.items():
            for op in ops:
                key = finalists.weights[slot][op].key
                again.workspace.put(DISTILLED, key, finalists.workspace.get(DISTILLED, key))
        loss = Finetuner.loss
        steps = []

        def stopping(self, batch):
            steps.append(batch)
            if len(steps) == stop_at:
                raise KeyboardInterrupt
            return loss(self, batch)

        monkeypatch.setattr(Finetuner, "loss", stopping)
        monkeypatch.setattr(CheckpointClock, "is_due", lambda self: True)
        stop_at = 6
        with pytest.raises(KeyboardInterrupt):
            TuneFinalists(self.OPTIONS).run(again)
        steps.clear()
        stop_at = -1
        assert TuneFinalists(self.OPTIONS).run(again).finalists == undisturbed.finalists
        assert len(steps) == 1

    def test_a_finalist_without_a_finite_loss_is_out(self, finalists, monkeypatch):
        def measured(module, *_):
            return Measured(1.0, next(losses))

        monkeypatch.setattr("lanac.training.finetune.measure_held_out", measured)
        losses = iter([0.2, math.nan, 0.4, 0.3])
        done = TuneFinalists(self.OPTIONS).run(finalists)
        assert done.chosen == done.finalists[2]
        assert done.chosen.trial == Trial(3, len(done.task.held_out), 0.4, 0.3)
        assert done.finalists[0].trial is None
        reason = "its loss on the held-out samples is infinite or not a number"
        assert done.instruments.warned[-1] == f"finalist 1 is out: {reason}"
        losses = iter([math.nan] * 4)
        other = replace(finalists, seed=3)
        with pytest.raises(TrainingError) as error:
            TuneFinalists(self.OPTIONS).run(other)
        assert str(error.value) == reason
