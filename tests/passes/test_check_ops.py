"""What becomes of ops that fail, by whose they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac import Family, OpSpec, run_passes
from lanac.backends import onnxruntime
from lanac.compilation import Dropped
from lanac.errors import BackendError, FamilyError
from lanac.ops.base import FAMILIES
from lanac.ops.pool import parse_pool
from lanac.passes import (
    CheckOps,
    DistillCandidates,
    EnumeratePool,
    MeasureCosts,
    ScoreCandidates,
)
from lanac.passes import distill_candidates as distilling
from lanac.passes.latency import Thoroughness
from lanac.targets import Effort

QUICK = Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))

EQUAL = ("blocks.0", "blocks.1", "blocks.3", "blocks.4")
"""The slots that keep their shape."""


class Picky(Family):
    """Fails as asked for in some slots."""

    name = "picky"

    def __init__(self, unlisted=(), unbuilt=(), listed=EQUAL):
        self.unlisted, self.unbuilt, self.listed = unlisted, unbuilt, listed

    def enumerate(self, view):
        if view.slot.name in self.unlisted:
            raise ValueError("not listed")
        return [OpSpec.of(self.name, k=3)] if view.slot.name in self.listed else []

    def build(self, op, view):
        if view.slot.name in self.unbuilt:
            raise ValueError("not built")
        channels = view.input_spec.channels
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


PICKY = OpSpec.of("picky", k=3)


def unbuilt(slot):
    text = f"op picky(k=3) cannot be built for slot {slot!r}: ValueError: not built"
    return Dropped(slot, PICKY, text)


@pytest.fixture
def installed(monkeypatch):
    """Makes a family known to every run, as an entry point does."""

    def install(family):
        FAMILIES.names()
        monkeypatch.setitem(FAMILIES._items, family.name, family)

    return install


def slots_with(compilation, op=PICKY):
    return tuple(name for name, ops in compilation.pool.items() if op in ops)


def test_an_op_of_the_users_that_fails_in_some_slots_is_dropped_there(start):
    own = Picky(unbuilt=("blocks.1", "blocks.3"))
    checked = run_passes(start("flops=0.6x", "skip", ops=[own]), [CheckOps()])
    assert slots_with(checked) == ("blocks.0", "blocks.4")
    assert checked.dropped == (unbuilt("blocks.1"), unbuilt("blocks.3"))
    assert checked.instruments.warned == [f"dropped: {item.reason}" for item in checked.dropped]


def test_an_op_of_the_users_that_works_nowhere_ends_the_run(start):
    own = Picky(unbuilt=EQUAL, listed=("blocks.3",))
    with pytest.raises(FamilyError) as caught:
        run_passes(start("flops=0.6x", "skip", ops=[own]), [CheckOps()])
    assert str(caught.value).endswith(
        ", class Picky: op picky(k=3) cannot be built for slot 'blocks.3': ValueError: not built"
    )


def test_an_installed_op_that_works_nowhere_is_dropped(start, installed):
    installed(Picky(unbuilt=EQUAL))
    checked = run_passes(start("flops=0.6x", "skip,picky"), [CheckOps()])
    assert slots_with(checked) == ()
    assert checked.dropped == tuple(map(unbuilt, EQUAL))


def test_an_installed_family_that_fails_to_list_its_ops_is_dropped_there(start, installed):
    installed(Picky(unlisted=("blocks.1",)))
    compilation = start("flops=0.6x", "skip,picky")
    assert slots_with(compilation) == ("blocks.0", "blocks.3", "blocks.4")
    assert compilation.dropped == (
        Dropped(
            "blocks.1",
            OpSpec("picky"),
            "family 'picky', slot 'blocks.1': enumerate() fails: ValueError: not listed",
        ),
    )


def test_a_family_of_the_users_that_fails_to_list_its_ops_ends_the_run(start):
    with pytest.raises(FamilyError) as caught:
        start("flops=0.6x", "skip", ops=[Picky(unlisted=("blocks.1",))])
    assert str(caught.value).endswith(
        ", class Picky: family 'picky', slot 'blocks.1': enumerate() fails: ValueError: not listed"
    )


def test_what_cannot_be_written_as_source_is_fine_where_none_is_asked_for(start, monkeypatch):
    def refuse(*_):
        raise BackendError("no source")

    monkeypatch.setattr("lanac.passes.check_ops.write_source", refuse)
    compilation = start("flops=0.6x", "skip", ops=[Picky()])
    assert slots_with(run_passes(compilation, [CheckOps(as_source=False)])) == EQUAL
    with pytest.raises(FamilyError, match=r"op picky\(k=3\) in slot 'blocks.0': no source\. "):
        run_passes(compilation, [CheckOps()])


def test_what_does_not_run_as_onnx_ends_the_run(start, monkeypatch):
    def refuse(*_):
        raise BackendError("no such operator")

    monkeypatch.setattr(onnxruntime, "export_for_timing", refuse)
    with pytest.raises(FamilyError) as caught:
        run_passes(start("flops=0.6x", "skip", ops=[Picky(listed=EQUAL[:1])]), [CheckOps(False)])
    assert str(caught.value).endswith(
        ", class Picky: op picky(k=3) in slot 'blocks.0' does not run as ONNX, as which every "
        "student is written: no such operator"
    )


def test_lanacs_own_ops_are_not_tried(start, monkeypatch):
    monkeypatch.setattr("lanac.passes.check_ops.build_op", lambda *_: pytest.fail("tried"))
    compilation = start("flops=0.6x", "default")
    assert run_passes(compilation, [CheckOps()]).pool == compilation.pool


class Constant(nn.Module):
    """What the teacher's op gives on average; nothing to learn."""

    def __init__(self, view):
        super().__init__()
        self.register_buffer("mean", torch.zeros(view.output_spec.channels, 1, 1))
        if view.calibration is not None:
            with torch.no_grad():
                self.mean += view.teacher(view.calibration.clone()).mean((0, 2, 3))[:, None, None]

    def forward(self, x):
        return self.mean + 0 * x


class Average(Picky):
    name = "average"

    def enumerate(self, view):
        return [OpSpec(self.name)] if view.slot.keeps_shape else []

    def build(self, op, view):
        return Constant(view)


class TestWithoutParameters:
    """They keep what they took from the calibration data, see one batch, and are scored."""

    DISTILL = DistillCandidates(samples=96, batch=16)
    OP = OpSpec("average")

    @pytest.fixture
    def learned(self, monkeypatch):
        """Counts the batches that the teacher sees while candidates learn."""
        seen = []
        learn = distilling.Candidate.learn

        def counted(self, features, learning_rate):
            seen.append(self.op)
            learn(self, features, learning_rate)

        monkeypatch.setattr(distilling.Candidate, "learn", counted)
        return seen

    def test_alone(self, start, learned):
        compilation = start("flops=0.6x", "identity", ops=[Average])
        done = run_passes(compilation, [CheckOps(), self.DISTILL, ScoreCandidates(64, 32)])
        assert learned == [self.OP] * 4  # one batch in each slot
        for slot in EQUAL:
            trained = done.weights[slot][self.OP]
            stored = done.workspace.get("distilled", trained.key).tensors
            assert float(stored["mean"].abs().max()) > 0
            assert 0 < trained.error <= 1.5  # a constant: about the variance
            assert self.OP in done.scores[slot]

    def test_beside_others(self, start, learned):
        alone, both = (
            run_passes(start("flops=0.6x", pool, pool, ops=[Average]), [self.DISTILL])
            for pool in ("identity", "slim(w=0.5)")
        )
        for slot in EQUAL:
            ours, theirs = alone.weights[slot][self.OP], both.weights[slot][self.OP]
            assert ours.error == theirs.error


def test_what_cannot_be_timed_is_dropped_and_named(start, monkeypatch):
    export = onnxruntime.export_for_timing

    def refusing(module, inputs):
        if isinstance(module, nn.Conv2d):
            raise BackendError("not today")
        return export(module, inputs)

    compilation = run_passes(start("0.6x", "identity", ops=[Picky(listed=EQUAL[:1])]), [CheckOps()])
    monkeypatch.setattr(onnxruntime, "export_for_timing", refusing)
    done = run_passes(compilation, [MeasureCosts(QUICK)])
    reason = "op picky(k=3) of slot 'blocks.0' cannot be timed: not today"
    assert Dropped("blocks.0", PICKY, reason) in done.dropped
    assert slots_with(done) == ()


def test_a_named_pool_keeps_a_brought_family_out_of_its_whole_grid(start):
    compilation = start("flops=0.6x", "skip", ops=[Picky()])
    members = parse_pool("skip,picky(k=5)", compilation.families)
    again = run_passes(compilation, [EnumeratePool(members)])
    assert slots_with(again, OpSpec.of("picky", k=5)) == EQUAL
    assert slots_with(again) == ()
