"""What is timed, what is passed over, and what becomes of ops that kill the process."""

from __future__ import annotations

from typing import ClassVar

import pytest

from lanac import run_passes
from lanac.backends import isolation
from lanac.backends.isolation import WorkerDied
from lanac.compilation import Finalist, Student
from lanac.errors import BackendError
from lanac.ir import IDENTITY, TEACHER, OpSpec, Plan
from lanac.passes import EmitStudent, MeasureCosts, TimeFinalists
from lanac.passes.assemble import assemble_student
from lanac.passes.latency import Thoroughness
from lanac.targets import Effort

QUICK = Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))
COSTS = MeasureCosts(QUICK)
HALF = OpSpec.of("slim", w=0.5)


class FakeBench:
    """Times follow from the size of the files; a death takes all that is open along."""

    kills: ClassVar[dict[int, str]] = {}
    seen: ClassVar[list[str]] = []
    sizes: ClassVar[dict[str, int]] = {}
    jitter: ClassVar[list[float]] = [1.0]

    def __init__(self, runtime, target):
        self.open_names: set[str] = set()
        self.calls = 0

    def open(self, name, files, specs):
        size = sum(path.stat().st_size for path in files)
        self.seen.append(name)
        self.sizes[name.split()[0]] = size
        self._die(size, "opening")
        self.open_names.add(name)

        def sample(repeats):
            assert name in self.open_names, "closed, or its process has died"
            self._die(size, "timing")
            self.calls += 1
            return size * self.jitter[self.calls % len(self.jitter)]

        return sample

    def _die(self, size, when):
        if self.kills.get(size) == when:
            self.open_names.clear()
            raise WorkerDied("the process that ran it was ended by signal SIGSEGV")

    def close(self, names):
        self.open_names -= set(names)

    def quit(self):
        self.open_names.clear()


@pytest.fixture
def fake(monkeypatch):
    for name, value in (("kills", {}), ("seen", []), ("sizes", {}), ("jitter", [1.0])):
        monkeypatch.setattr(FakeBench, name, value)
    monkeypatch.setattr(isolation, "new_bench", FakeBench)
    return FakeBench


def sizes_of(compilation, fake, op):
    """How large the files of an op are, by slot, after a run."""
    return fake.sizes


@pytest.mark.parametrize("when", ["opening", "timing"])
def test_an_op_that_kills_the_process_is_dropped_and_the_others_are_timed(start, fake, when):
    run_passes(start("0.6x", "identity", out="first"), [COSTS])
    known = set(fake.sizes.values())
    run_passes(start("0.6x", f"identity,{HALF}", out="second"), [COSTS])
    of_ops = {size for key, size in fake.sizes.items() if size not in known}
    deadly = min(of_ops)  # of an op: whole networks are larger
    fake.kills[deadly] = when
    done = run_passes(start("0.6x", f"identity,{HALF}", out="third"), [COSTS])
    assert [item.op for item in done.dropped] == [HALF] * len(done.dropped)
    assert {item.reason for item in done.dropped} == {
        f"op {HALF} of slot {item.slot!r} cannot be timed: in onnxruntime the process that ran it "
        "was ended by signal SIGSEGV"
        for item in done.dropped
    }
    assert 1 <= len(done.dropped) < 5
    left = [slot for slot, ops in done.pool.items() if HALF in ops]
    assert len(left) + len(done.dropped) == 5
    for slot in left:
        assert done.costs.costs["latency_ms"][slot][HALF] > 0


def test_a_teacher_that_kills_the_process_ends_the_run(start, fake):
    run_passes(start("0.6x", "identity", out="first"), [COSTS])
    fake.kills[fake.sizes["teacher"]] = "opening"
    with pytest.raises(BackendError) as caught:
        run_passes(start("0.6x", "identity", out="second"), [COSTS])
    assert str(caught.value) == (
        "the teacher cannot be timed on cpu:onnxruntime:fp32:b1:t1: the process that ran it was "
        "ended by signal SIGSEGV"
    )


def test_a_noisy_machine_is_said(start, fake):
    fake.jitter = [1.0, 1.6]
    FakeBench.jitter = [1.0, 1.6, 1.0]
    compilation = run_passes(start("0.6x", "identity"), [COSTS])
    (warning,) = compilation.instruments.warned
    assert warning.startswith("this machine is too noisy to measure well: ")
    assert warning.endswith(
        " Measure again (another --workspace) while nothing else runs, or expect finalists that "
        "miss their predictions"
    )
    assert "latencies are known within " in warning
    assert "half of the teacher's own measurements lie " in warning


class TestWorth:
    """Wide ops are slower than the teacher's here: their files are larger."""

    WIDE = "identity,cb_bottle(k=3,w=2),cb_bottle(k=3,w=4),cb_bottle(k=5,w=4),cb_bottle(k=7,w=4)"

    def timed(self, compilation, slot="blocks.0"):
        return set(compilation.costs.costs["latency_ms"][slot]) - {TEACHER, IDENTITY}

    def test_larger_ops_of_a_family_that_is_slower_are_passed_over(self, start, fake):
        done = run_passes(start("0.6x", self.WIDE), [COSTS])
        timed = self.timed(done)
        assert OpSpec.of("cb_bottle", k=7, w=4) not in timed
        assert OpSpec.of("cb_bottle", k=7, w=4) not in done.pool["blocks.0"]
        assert not done.dropped  # nothing has failed
        assert done.instruments.said[-1].endswith(
            " ops were not timed: they cannot be cheaper than what they would replace"
        )

    def test_everything_on_demand(self, start, fake):
        how = Thoroughness(QUICK.parts, 2, QUICK.wholes, everything=True)
        done = run_passes(start("0.6x", self.WIDE), [MeasureCosts(how)])
        assert len(self.timed(done)) == 4

    def test_what_the_user_fixes_is_timed(self, start, fake):
        done = run_passes(start("0.6x", self.WIDE, fix=["blocks.0=cb_bottle(k=7,w=4)"]), [COSTS])
        assert self.timed(done) == {OpSpec.of("cb_bottle", k=7, w=4)}

    def test_what_serves_another_limit_is_timed(self, start, fake, monkeypatch):
        """An op with fewer params stays, however slow it may be."""
        monkeypatch.setattr("lanac.passes.worth_timing._FASTER", 0.0001)  # all seem too slow
        pool = f"identity,{HALF}"
        alone = run_passes(start("0.6x", pool, out="alone"), [COSTS])
        both = run_passes(start("0.6x+params=0.9x", pool, out="both"), [COSTS])
        assert HALF in self.timed(both)
        assert self.timed(alone) <= self.timed(both)


@pytest.mark.parametrize("target", ["cpu:pytorch", "cpu:openvino", "cpu:b4:t2"])
def test_every_runtime_serves_to_the_end(start, target):
    """Costs, finalists and the emitted student, each in files that the runtime reads."""
    compilation = run_passes(start("0.9x", f"identity,{HALF}", target=target), [COSTS])
    assert compilation.costs.how["latency_ms"] == "measured"
    slots = compilation.program.slots
    plan = Plan((TEACHER,) * len(slots), 0.0, dict(compilation.costs.teacher))
    timed = TimeFinalists(rounds=2).run(compilation.having(finalists=(Finalist(plan, 1, 1, 1),)))
    (finalist,) = timed.finalists
    assert finalist.latency.median_ms > 0
    assert finalist.error == plan.costs["latency_ms"] / finalist.costs["latency_ms"] - 1
    student = Student(assemble_student(start("0.9x", "skip"), plan.ops), 0.5, (), 0)
    done = run_passes(
        timed.having(student=student, chosen=finalist),
        [EmitStudent(backends=("pytorch",), samples=4, rounds=2)],
    )
    assert done.outputs.latency.rounds == 3  # once for each time that it is opened
    assert done.outputs.costs["latency_ms"] == done.outputs.latency.median_ms
