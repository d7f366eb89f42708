"""Distillation and scores, against what they are by definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lanac import run_passes
from lanac.ir import IDENTITY, TEACHER, OpSpec
from lanac.ops.reference import Reference
from lanac.passes import DistillCandidates, MeasureCosts, ScoreCandidates
from lanac.passes import distill_candidates as module
from lanac.passes.assemble import DISTILLED, load_op
from lanac.passes.distill_candidates import training_order
from lanac.passes.score_candidates import evaluation_indices
from lanac.training.batch_norm import current_statistics

OF = Reference.of
DISTILL = DistillCandidates(samples=96, batch=16)
COSTS = MeasureCosts()
SLIM, DENSE = OpSpec.of("slim", w=0.5), OpSpec.of("cb_bottle", k=3, w=0.25)


def weights_of(compilation, slot, op):
    key = compilation.weights[slot][op].key
    return compilation.workspace.get(DISTILLED, key).tensors


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class TestDistill:
    def test_the_company_does_not_matter(self, start):
        """A candidate trained with others and one trained alone are the same, bit for bit."""
        together = run_passes(start("flops=0.6x", f"slim,{DENSE}", "together"), [DISTILL])
        for op in (SLIM, DENSE):
            alone = run_passes(start("flops=0.6x", str(op), f"alone {op.family}"), [DISTILL])
            for slot in ("blocks.0", "blocks.2", "blocks.4"):
                assert_equal(weights_of(together, slot, op), weights_of(alone, slot, op))
                assert together.weights[slot][op].error == alone.weights[slot][op].error

    @pytest.mark.parametrize("whole", [0, 3], ids=["fitted", "in the fourth step"])
    def test_a_stopped_run_goes_on_from_its_checkpoint(self, start, monkeypatch, whole):
        """Nothing is fitted again: a checkpoint holds what was fitted, before the first step too."""
        expected = run_passes(start("flops=0.6x", f"slim,{DENSE}", "undisturbed"), [DISTILL])
        steps = []
        learn = module.Candidate.learn

        def stopping(self, features, learning_rate):
            steps.append(learning_rate)
            if len(steps) == stop_after:
                raise KeyboardInterrupt
            learn(self, features, learning_rate)

        monkeypatch.setattr(module.Candidate, "learn", stopping)
        monkeypatch.setattr(module.CheckpointClock, "is_due", lambda self: True)
        candidates = sum(map(len, expected.weights.values()))
        stop_after = whole * candidates + 5
        compilation = start("flops=0.6x", f"slim,{DENSE}", "stopped")
        with pytest.raises(KeyboardInterrupt):
            run_passes(compilation, [DISTILL])
        steps.clear()
        stop_after = -1
        monkeypatch.setattr(module, "collect_inputs", None)
        resumed = run_passes(compilation, [DISTILL])
        assert len(steps) == (6 - whole) * candidates
        for slot, ops in expected.weights.items():
            for op in ops:
                assert_equal(weights_of(resumed, slot, op), weights_of(expected, slot, op))
                assert resumed.weights[slot][op].error == ops[op].error

    def test_what_does_not_fit_into_memory_together_is_trained_in_groups(self, start, monkeypatch):
        pool = f"slim,{DENSE}"
        together = run_passes(start("flops=0.6x", pool, "together"), [COSTS, DISTILL])
        groups = []
        train = module.DistillCandidates._train

        def recorded(self, compilation, missing):
            groups.append([(slot.name, op) for slot, op in missing.values()])
            return train(self, compilation, missing)

        monkeypatch.setattr(module.DistillCandidates, "_train", recorded)
        params = together.costs.costs["params"]
        count = sum(map(len, together.weights.values()))
        bound = (
            16 * sum(params[slot][op] for slot, ops in together.weights.items() for op in ops) / 3
        )
        few = DistillCandidates(samples=96, batch=16, training_bytes=int(bound))
        apart = run_passes(start("flops=0.6x", pool, "apart"), [COSTS, few])
        assert len(groups) >= 3 and sum(map(len, groups)) == count
        assert all(
            len(group) == 1 or 16 * sum(params[slot][op] for slot, op in group) <= bound
            for group in groups
        )
        for slot, ops in together.weights.items():
            for op in ops:
                assert_equal(weights_of(apart, slot, op), weights_of(together, slot, op))

    def test_only_what_is_missing_is_trained(self, start, monkeypatch):
        run_passes(start("flops=0.6x", str(SLIM)), [DISTILL])
        trained = []
        build = module.DistillCandidates._candidates

        def recorded(self, compilation, missing, *rest, **options):
            trained.extend(op for _, op in missing.values())
            return build(self, compilation, missing, *rest, **options)

        monkeypatch.setattr(module.DistillCandidates, "_candidates", recorded)
        run_passes(start("flops=0.6x", f"{SLIM},{DENSE}"), [DISTILL])
        assert set(trained) == {DENSE}

    def test_ops_are_fitted_to_as_many_samples_as_are_set(self, start, monkeypatch):
        seen = []
        build = module.build_op

        def recorded(op, view, seed, families):
            seen.append((view.slot.name, len(view.calibration)))
            return build(op, view, seed, families)

        monkeypatch.setattr(module, "build_op", recorded)
        inherited = "slim(w=0.5),lowrank(r=0.5)"
        for number, step in enumerate(
            (
                DistillCandidates(96, 16),
                DistillCandidates(96, 16, calibration=40),
                DistillCandidates(96, 16, calibration_bytes=1),
            )
        ):
            run_passes(start("flops=0.6x", inherited, f"{number}"), [step])
        counts = [count for _, count in seen]
        third = len(counts) // 3
        assert set(counts[:third]) == {512}
        assert set(counts[third : 2 * third]) == {48}  # whole batches
        assert set(counts[2 * third :]) == {8}

    def test_other_calibration_gives_another_result(self, start):
        keys = {
            run_passes(start("flops=0.6x", str(SLIM)), [step]).weights["blocks.0"][SLIM].key
            for step in (DISTILL, DistillCandidates(96, 16, calibration=64))
        }
        assert len(keys) == 2

    def test_an_op_is_built_once_for_all_its_slots_ops_on_one_pass_of_the_teacher(
        self, start, monkeypatch
    ):
        made = []
        monkeypatch.setattr(
            Reference, "of", classmethod(lambda cls, *given: made.append(given) or OF(*given))
        )
        compilation = run_passes(start("flops=0.6x", "slim,lowrank"), [DISTILL])
        assert len(made) == len([ops for ops in compilation.weights.values() if ops])

    def test_candidates_learn(self, start):
        long = DistillCandidates(samples=2000, batch=50)
        first, last = (
            run_passes(start("flops=0.6x", str(DENSE), f"{step.samples}"), [step])
            for step in (DISTILL, long)
        )
        for slot in ("blocks.0", "blocks.3"):
            assert last.weights[slot][DENSE].error < first.weights[slot][DENSE].error

    def test_the_teacher_is_not_changed(self, start):
        compilation = start("flops=0.6x", "slim")
        before = {k: v.clone() for k, v in compilation.program.teacher.state_dict().items()}
        run_passes(compilation, [DISTILL, ScoreCandidates(64, 32)])
        assert_equal(before, compilation.program.teacher.state_dict())

    @pytest.mark.parametrize(("samples", "steps"), [(1, 1), (16, 1), (17, 2), (1200, 75)])
    def test_training_order_has_as_many_steps_as_the_samples_take(self, start, samples, steps):
        data = start("flops=0.6x", "skip").task.train
        order = list(training_order(data, samples, 16, 0))
        assert len(order) == steps
        assert all(len(part) == 16 for part in order)
        first_epoch = [index for part in order[: len(data) // 16] for index in part]
        assert len(first_epoch) == len(set(first_epoch))


class TestScores:
    @pytest.fixture
    def scored(self, start):
        return run_passes(
            start("flops=0.6x", f"identity,{SLIM}"), [DISTILL, ScoreCandidates(100, 32)]
        )

    def loss_with(self, compilation, modules):
        """By definition: the mean over the batches of the loss with batch statistics."""
        network = compilation.program.rewrite(modules).eval()
        data = compilation.task.train
        indices = evaluation_indices(len(data), 100, compilation.seed)
        losses = []
        for part in (indices[:32], indices[32:64], indices[64:96], indices[96:]):
            batch = data.batch(part)
            with torch.no_grad(), current_statistics(network):
                losses.append(float(F.cross_entropy(network(*batch.inputs), batch.targets)))
        return sum(losses) / len(losses)

    @pytest.mark.parametrize("op", [IDENTITY, SLIM], ids=str)
    @pytest.mark.parametrize("name", ["blocks.0", "blocks.4"])
    def test_a_score_is_the_change_of_the_loss(self, scored, name, op):
        slot = scored.program.slot(name)
        change = self.loss_with(scored, {name: load_op(scored, slot, op)})
        change -= self.loss_with(scored, {})
        assert scored.scores[name][op] == pytest.approx(change, abs=1e-5)

    def test_the_teachers_own_op_changes_nothing(self, scored):
        assert {ops[TEACHER] for ops in scored.scores.values()} == {0.0}

    def test_scores_are_stored_batch_by_batch(self, scored, start, monkeypatch):
        monkeypatch.setattr(
            "lanac.passes.score_candidates._Models", lambda *_: pytest.fail("computed again")
        )
        again = run_passes(
            start("flops=0.3x", f"identity,{SLIM}"), [DISTILL, ScoreCandidates(100, 32)]
        )
        assert again.scores == scored.scores
