"""Cost tables measured elsewhere: when they are taken, and what they do to a compilation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lanac
from lanac import run_passes
from lanac.backends.openvino import Openvino
from lanac.compilation import Finalist, Student
from lanac.errors import BackendError, CommandError, CostTableError, TargetError
from lanac.frontend.model_file import load_model_file
from lanac.ir import IDENTITY, TEACHER, OpSpec
from lanac.measuring import measure
from lanac.passes import EmitStudent, MeasureCosts, TimeFinalists, latency
from lanac.passes.assemble import assemble_student
from lanac.passes.latency_costs import untimed
from lanac.report.summary import plan_record, result_rows, summary, verdict
from lanac.targets import CostFile, Effort, format_costs, parse_budgets, read_costs
from lanac.targets.device import Device

POOL = "identity,slim(w=0.5)"
HALF = OpSpec.of("slim", w=0.5)
QUICK = {"least": 2, "most": 2}


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the tiny network, measured here."""
    path = tmp_path_factory.mktemp("measured") / "tiny.costs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lanac.backends.isolation.new_bench", lanac.backends.isolation.Local)
        patch.setattr(latency.Thoroughness, "__init__", _quick(latency.Thoroughness.__init__))
        file = load_model_file(trained / "model.py")
        measure(file.model, path, train_data=file.train_data, pool=POOL)
    return path


def _quick(init):
    def quick(self, *_, everything=False, **__):
        init(self, Effort(**QUICK), 2, Effort(**QUICK), everything)

    return quick


@pytest.fixture
def table(measured: Path, tmp_path: Path):
    """Writes a changed table with a checksum of its own, and gives its path."""

    def write(**changes) -> Path:
        path = tmp_path / "changed.costs"
        path.write_text(format_costs(replace(read_costs(measured), **changes)))
        return path

    return write


def away(**changes):
    """As if it had been measured on another machine."""
    return {"device": "Other CPU", "device_fingerprint": "0", **changes}


class TestMeasure:
    def test_the_table_says_what_was_measured(self, measured):
        found = read_costs(measured)
        assert found.target == "cpu:onnxruntime:fp32:b1:t1"
        assert found.runtime.startswith("onnxruntime ")
        assert [slot.slot for slot in found.slots][:2] == ["stem", "blocks.0"]
        own = sum(entry.latency_ms for entry in found.entries if entry.op == "teacher")
        assert own + found.outside_latency_ms == pytest.approx(found.latency_ms)
        assert {entry.op for entry in found.entries} == {"teacher", "slim(w=0.5)"}
        assert len(found.networks) == 2

    def test_it_goes_on_from_its_workspace(self, measured, trained, monkeypatch):
        monkeypatch.setattr(
            "lanac.backends.isolation.new_bench", lambda *_: pytest.fail("measured again")
        )
        monkeypatch.setattr(latency.Thoroughness, "__init__", _quick(latency.Thoroughness.__init__))
        file = load_model_file(trained / "model.py")
        before = measured.read_text()
        measure(file.model, measured, train_data=file.train_data, pool=POOL)
        assert measured.read_text() == before

    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(CommandError) as caught:
            measure(torch.nn.ReLU(), tmp_path / "none" / "a.costs")
        assert str(caught.value) == (
            f"-o {str(tmp_path / 'none' / 'a.costs')!r}: expected the name of a file in a folder "
            "that exists"
        )

    def test_a_device_that_is_not_here(self, tmp_path):
        with pytest.raises(BackendError) as caught:
            measure(torch.nn.ReLU(), tmp_path / "a.costs", target="v100:pytorch")
        assert str(caught.value) == (
            "v100:pytorch:fp16:b128:t1 cannot be measured here: this machine has no CUDA device that "
            "torch can use. Run lanac measure on that machine"
        )


class TestRefusals:
    def refusal(self, start, path, budget="0.6x", pool=POOL, **options) -> str:
        with pytest.raises(CostTableError) as caught:
            run_passes(start(budget, pool, costs=path, **options), [MeasureCosts()])
        return str(caught.value).replace(str(path), "FILE")

    def test_another_target(self, start, measured):
        assert self.refusal(start, measured, target="cpu:openvino:b8:t2") == (
            "the cost table FILE was measured for another target: runtime onnxruntime there, "
            "openvino here, batch 1 there, 8 here, threads 1 there, 2 here. Use it with --target "
            "cpu:onnxruntime:fp32:b1:t1, or measure for cpu:openvino:fp32:b8:t2"
        )

    def test_another_version_that_is_here(self, start, table):
        path = table(runtime="onnxruntime 0.1")
        here = read_costs(path).runtime
        assert here == "onnxruntime 0.1"
        assert self.refusal(start, path).startswith(
            "the cost table FILE was measured with onnxruntime 0.1, here is onnxruntime "
        )

    def test_another_version_elsewhere_is_taken(self, start, table):
        path = table(**away(runtime="onnxruntime 0.1"))
        done = run_passes(start("0.6x", POOL, costs=path), [MeasureCosts()])
        assert done.costs.elsewhere == "Other CPU"

    def test_other_inputs(self, start, table):
        assert self.refusal(start, table(inputs=("f32[N,1,24,24]",))) == (
            "the cost table FILE was measured for another model: its inputs are f32[N,1,24,24] "
            "there, f32[N,1,12,12] here"
        )

    def test_other_slots(self, start, table, measured):
        slots = read_costs(measured).slots
        assert self.refusal(start, table(slots=slots[:-1])) == (
            "the cost table FILE was measured for another model, or with other --granularity, "
            "--only or --skip: it has 6 slots, here are 7 ('classifier' is one of them only)"
        )

    def test_another_shape(self, start, table, measured):
        first, *others = read_costs(measured).slots
        changed = replace(first, output="f32[N,16,6,6]")
        assert self.refusal(start, table(slots=(changed, *others))) == (
            "the cost table FILE was measured for another model: the output of slot 'stem' is "
            "f32[N,16,6,6] there, f32[N,16,12,12] here"
        )

    def test_other_layers(self, start, table, measured):
        first, *others = read_costs(measured).slots
        changed = replace(first, what="0")
        assert self.refusal(start, table(slots=(changed, *others))) == (
            "the cost table FILE was measured for another model: slot 'stem' has other layers there "
            f"(torch {torch.__version__} there, {torch.__version__} here)"
        )

    def test_missing_ops_are_named(self, start, measured):
        assert self.refusal(start, measured, pool=f"{POOL},slim(w=0.75)") == (
            "the cost table FILE lacks 5 ops of this pool: slim(w=0.75) in blocks.0, slim(w=0.75) "
            "in blocks.1, slim(w=0.75) in blocks.2, slim(w=0.75) in blocks.3, slim(w=0.75) in "
            "blocks.4. Measure them (lanac measure with the same --pool and --ops goes on from "
            "there), leave them out (--missing drop), or predict them (--missing predict)"
        )

    def test_an_op_that_computes_something_else_is_missing(self, start, table, measured):
        entries = tuple(
            replace(entry, what="0") if entry.op == str(HALF) else entry
            for entry in read_costs(measured).entries
        )
        message = self.refusal(start, table(entries=entries))
        assert message.startswith("the cost table FILE lacks 5 ops of this pool: slim(w=0.5) in ")

    def test_a_slot_without_the_teachers_op(self, start, table, measured):
        entries = tuple(e for e in read_costs(measured).entries if e.slot != "stem")
        path = table(entries=entries)
        assert self.refusal(start, path, missing="drop") == (
            "the cost table FILE has no latency of the teacher's own op in slot 'stem'"
        )

    def test_what_becomes_of_missing_ops_is_asked_for_by_name(self, start, measured):
        assert self.refusal(start, measured, missing="dorp") == (
            "--missing 'dorp': unknown answer 'dorp'. Did you mean 'drop'? Known: drop, predict, refuse."
        )

    def test_energy_without_a_column(self, start, measured):
        assert self.refusal(start, measured, "energy=0.5x") == (
            "a budget limits energy, which no machine is asked about: give a cost table with that "
            "column (--costs, docs/cost-tables.md)"
        )


class TestUse:
    def test_latencies_are_those_of_the_table(self, start, measured):
        done = run_passes(start("0.6x", POOL, costs=measured), [MeasureCosts()])
        found = read_costs(measured)
        costs = done.costs
        assert costs.how["latency_ms"] == "imported"
        assert (costs.teacher["latency_ms"], costs.elsewhere) == (found.latency_ms, "")
        for (slot, op), entry in found.by_place().items():
            parsed = TEACHER if op == "teacher" else HALF
            if entry.latency_ms is not None:
                assert costs.costs["latency_ms"][slot][parsed] == entry.latency_ms
        assert costs.costs["latency_ms"]["blocks.0"][IDENTITY] == 0

    def test_missing_ops_are_dropped_by_name(self, start, measured):
        compilation = start("0.6x", f"{POOL},slim(w=0.75)", costs=measured, missing="drop")
        done = run_passes(compilation, [MeasureCosts()])
        assert len(done.dropped) == 5
        assert done.dropped[0].reason == (
            f"op slim(w=0.75) of slot 'blocks.0' is not in the cost table {measured}"
        )
        assert all(op.options != (("w", 0.75),) for ops in done.pool.values() for op in ops)

    def test_energy(self, start, table, measured):
        entries = tuple(
            replace(entry, energy_mj=4.0 if entry.op == "teacher" else 1.0)
            for entry in read_costs(measured).entries
        )
        path = table(entries=entries, energy_mj=30.0, outside_energy_mj=2.0)
        costs = run_passes(start("energy=0.5x", POOL, costs=path), [MeasureCosts()]).costs
        assert costs.teacher["energy_mj"] == 30.0
        slots = [slot.slot for slot in read_costs(path).slots]
        assert costs.costs["energy_mj"][slots[0]][TEACHER] == 4.0
        assert costs.how["energy_mj"] == "imported"

    def test_a_student_for_a_machine_that_is_not_here(self, start, table):
        """Nothing is timed, and everything that is said of its latency says where it is from."""
        compilation = run_passes(start("0.6x", POOL, costs=table(**away())), [MeasureCosts()])
        slots = compilation.program.slots
        ops = tuple(HALF if HALF in compilation.pool[slot.name] else TEACHER for slot in slots)
        plan = lanac.ir.Plan(ops, 0.1, compilation.costs.totals(slots, ops))
        finalists = (Finalist(plan, 0.2, 0.1, 9),)
        done = TimeFinalists().run(compilation.having(finalists=finalists))
        reason = "costs were measured on Other CPU, which is not here"
        assert untimed(done) == reason
        assert done.chosen.latency is None
        assert done.chosen.costs == plan.costs
        assert done.instruments.said[-1] == (f"the finalists are not timed: {reason}")
        student = Student(assemble_student(start("0.6x", POOL), [TEACHER] * 7), 0.5, (), 0)
        emitted = run_passes(
            done.having(
                student=student,
                scores={s.name: dict.fromkeys(compilation.pool[s.name], 0.0) for s in slots},
            ),
            [EmitStudent(backends=("pytorch",), samples=8)],
        )
        emitted = emitted.having(budget=parse_budgets("0.999x")[0])
        assert emitted.outputs.latency is None
        assert result_rows(emitted)[0][0] == "latency (sum of parts, imported)"
        assert verdict(emitted)[1].endswith(
            " by sums of imported latency; nothing was measured as a whole"
        )
        text = summary(emitted)
        assert f"Teacher and student were not timed as whole networks: {reason}." in text
        assert (
            "Predicted latencies are sums of ops measured one by one on Other CPU (imported); "
            in text
        )
        plan_file = json.loads(json.dumps(plan_record(emitted)))
        assert plan_file["latency"] == {"how": "imported", "untimed": reason}
        assert plan_file["measured_elsewhere"] == "Other CPU"
        assert plan_file["finalists"][0]["error"] is None


def test_a_target_that_is_not_here_is_refused_without_a_table(start, monkeypatch):
    """This machine's CPU cannot be predicted: nothing is known of it but what it measures."""
    monkeypatch.setattr(Device, "absent", lambda self: "it is elsewhere")
    with pytest.raises(TargetError) as caught:
        run_passes(start("0.6x", POOL), [MeasureCosts()])
    assert str(caught.value).startswith(
        "latency on cpu:onnxruntime:fp32:b1:t1 can neither be measured here (it is elsewhere) nor "
        "predicted: "
    )


def test_a_precision_that_the_processor_lacks(monkeypatch):
    monkeypatch.setattr("lanac.backends.openvino._capabilities", lambda: ["FP32"])
    target = lanac.targets.parse_target("cpu:openvino:bf16")
    assert Openvino().unavailable(target) == "this machine's processor does not compute in bf16"


def test_the_size_of_a_file_is_that_of_its_weights(start):
    compilation = run_passes(start("size=0.6x", "skip"), [MeasureCosts()])
    costs = compilation.costs
    stored = sum(v.numel() for v in compilation.program.teacher.state_dict().values() if v.ndim)
    assert costs.teacher["size_bytes"] == 4 * stored
    assert "latency_ms" not in costs.costs
    slots = compilation.program.slots
    total = costs.total("size_bytes", slots, [TEACHER] * len(slots))
    assert total == costs.teacher["size_bytes"]


def test_a_table_is_a_value(measured):
    assert isinstance(read_costs(measured), CostFile)
