"""The compiler end to end on a tiny network: as a command and as a library."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch.utils.data import TensorDataset

import lanac
from lanac.compiler import compile as compile_model
from lanac.frontend.model_file import load_model_file
from lanac.ir import IDENTITY, TEACHER, parse_op
from lanac.ops.pool import inherits

SETTINGS = lanac.Settings(
    distill_samples=128,
    score_samples=64,
    plans=4,
    evaluate_images=128,
    finalist_steps=2,
    finetune_epochs=1,
    batch_size=32,
)
POOL = "identity,slim,cb_bottle(k=3,w=0.25)"
PREPARED = ("distilled", "latency", "loss")


class Recorder(lanac.Instruments):
    """Remembers what ran."""

    def __init__(self):
        self.passes, self.bars, self.warnings = [], [], []

    def pass_started(self, name):
        self.passes.append(name)

    def warn(self, message):
        self.warnings.append(message)

    @contextlib.contextmanager
    def progress(self, what, total, done=0):
        steps = [done]
        yield lambda count: steps.append(count)
        self.bars.append((re.sub(r" \d+ ops", "", what), total, sum(steps)))


def compile_tiny(folder, out, **options):
    file = load_model_file(folder / "model.py")
    given = {
        "train_data": file.train_data, "val_data": file.val_data, "pool": POOL,
        "settings": SETTINGS, "instruments": Recorder(), "emit": "pytorch",
    }  # fmt: skip
    given |= options
    return lanac.compile(file.model, out=out, **given), given["instruments"]


def rows(out):
    with contextlib.closing(sqlite3.connect(out / "workspace" / "index.sqlite")) as index:
        return Counter(kind for (kind,) in index.execute("SELECT kind FROM results"))


@pytest.fixture(scope="module")
def two_students(trained, tmp_path_factory, untime):
    """Two budgets in one run: the result, what ran, and the output folder."""
    out = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        untime(patch)
        result, ran = compile_tiny(trained, out, budget="0.8x,0.6x")
    return result, ran, out


@pytest.fixture
def quick(monkeypatch, untime):
    """Emitted students are not timed."""
    untime(monkeypatch)


@pytest.fixture(scope="module")
def third_student(two_students, trained):
    """Another budget in the same folder, with an ONNX file: the result, what ran, rows before."""
    _, _, out = two_students
    before = rows(out)
    result, ran = compile_tiny(trained, out, budget="0.7x", emit="pytorch,onnx")
    return result, ran, before


class TestTwoBudgets:
    def test_one_preparation_serves_both(self, two_students):
        result, ran, _ = two_students
        counts = Counter(ran.passes)
        assert [str(student.budget) for student in result.students] == ["0.8x", "0.6x"]
        assert counts["measure_costs"] == counts["distill_candidates"] == 1
        assert counts["score_candidates"] == 1
        assert counts["finetune_student"] == counts["emit_student"] == 2
        assert [name for name, _, _ in ran.bars].count("distilling") == 1

    def test_everything_cheaper_was_distilled_once(self, two_students):
        result, _, out = two_students
        compilation = result.student
        trained = sum(map(len, compilation.weights.values()))
        assert rows(out)["distilled"] == trained > 7
        assert rows(out)["distilling"] == rows(out)["finetuning"] == 0

    def test_progress_reaches_its_total(self, two_students):
        _, ran, _ = two_students
        for name, total, done in ran.bars:
            assert done == total, name

    def test_files_are_there(self, two_students):
        _, _, out = two_students
        for budget in ("0.8x", "0.6x"):
            assert {path.name for path in (out / f"{budget}@cpu").iterdir()} == {
                "student.py", "student.safetensors", "plan.json", "summary.md",
            }  # fmt: skip
        assert {path.name for path in out.iterdir()} == {
            "0.8x@cpu", "0.6x@cpu", "lanac.json", "workspace",
        }  # fmt: skip
        assert not list(out.rglob("*.partial")) + list(out.rglob("*.old"))

    def test_plan_parses_back(self, two_students):
        result, _, out = two_students
        for student in result.students:
            plan = json.loads((out / f"{student.budget}@cpu" / "plan.json").read_text())
            ops = tuple(parse_op(entry["op"]) for entry in plan["slots"])
            assert ops == student.chosen.plan.ops
            slots = [slot.name for slot in student.program.slots]
            assert [entry["slot"] for entry in plan["slots"]] == slots
            assert plan["budget"] == str(student.budget)
            assert plan["target"] == "cpu:onnxruntime:fp32:b1:t1"
            assert plan["cost_sources"] == {
                "params": "counted", "flops": "counted", "memory_bytes": "counted",
                "size_bytes": "counted", "latency_ms": "measured",
            }  # fmt: skip

    def test_predicted_costs_are_the_sums_of_their_parts(self, two_students):
        result, _, out = two_students
        plan = json.loads((out / "0.6x@cpu" / "plan.json").read_text())
        for resource in ("latency_ms", "params", "flops"):
            total = result.student.costs.constants[resource]
            total += sum(entry["costs"][resource] for entry in plan["slots"])
            assert total == pytest.approx(plan["predicted"]["costs"][resource])
        score = sum(entry["score"] for entry in plan["slots"])
        assert score == pytest.approx(plan["predicted"]["score"], abs=1e-6)

    @staticmethod
    def kind(finalist):
        ops = {parse_op(op) for op in finalist["ops"]} - {TEACHER, IDENTITY}
        return frozenset(inherits(op) for op in ops)

    def test_finalists_are_told_and_what_one_was_chosen_by(self, two_students):
        result, _, out = two_students
        for student in result.students:
            folder = out / f"{student.budget}@cpu"
            plan = json.loads((folder / "plan.json").read_text())
            [chosen] = [item for item in plan["finalists"] if item["chosen"]]
            assert chosen["ops"] == [slot["op"] for slot in plan["slots"]]
            assert chosen["meets_budget"]
            assert chosen["loss"] == plan["before_finetuning"]["loss"]
            text = (folder / "summary.md").read_text()
            scores = chosen["predicted"]
            predicted = scores["score" if scores["refined_score"] is None else "refined_score"]
            row = f"{predicted:+.4f}, {chosen['loss'] - chosen['teacher_loss']:+.4f}"
            assert row in text
            fitting = [item for item in plan["finalists"] if item["meets_budget"]]
            ordered = sorted(fitting, key=lambda item: item["loss"])
            expected = ordered[:3] if len(fitting) > 1 else []
            for item in ordered[3:]:  # beyond the three, the first of each kind that they lack
                if self.kind(item) not in map(self.kind, expected):
                    expected.append(item)
            tried = [item for item in plan["finalists"] if item["trial"]]
            assert sorted(tried, key=lambda item: item["loss"]) == expected
            if tried:
                assert chosen["trial"]["after"] == min(item["trial"]["after"] for item in tried)
                assert "A trial is a finetuning of 2 steps; " in text
            for place, item in enumerate(plan["refined"], 1):
                assert item["after"] <= item["before"]
                assert f"Refinement, round {place}: {item['networks']} changes" in text

    def test_counted_costs_are_those_of_the_student(self, two_students):
        result, _, _ = two_students
        for student in result.students:
            for resource in ("params", "flops"):
                predicted = student.chosen.plan.costs[resource]
                assert predicted == student.outputs.costs[resource]

    def test_summary_says_what_is_counted(self, two_students):
        _, _, out = two_students
        text = (out / "0.6x@cpu" / "summary.md").read_text()
        for line in (
            "# Student at 0.6x on cpu:onnxruntime:fp32:b1:t1",
            "| top-1 (200 samples) | ", "| params (counted) | ", "| flops (counted) | ",
            "| peak activations (counted) | ", "## What was replaced",
            "predicted cost | measured before finetuning | off by |", "| weights in fp32 (counted) | ",
        ):  # fmt: skip
            assert line in text
        assert text.count("(chosen)") == 1

    def test_student_is_its_own_program(self, two_students, trained, tmp_path):
        """In a clean process, without lanac: it loads, and gives the accuracy that is reported."""
        result, _, out = two_students
        inputs, labels = load_model_file(trained / "model.py").val_data.tensors
        torch.save((inputs, labels), tmp_path / "val.pt")
        code = (
            "import sys; sys.modules['lanac'] = None\n"
            f"sys.path.insert(0, {str(out / '0.6x@cpu')!r})\n"
            "import torch, student\n"
            "network = student.load()\n"
            "inputs, labels = torch.load('val.pt')\n"
            "with torch.no_grad():\n"
            "    print(100 * float((network(inputs).argmax(1) == labels).float().mean()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) == pytest.approx(result.students[1].outputs.metric)


class TestReuse:
    def test_another_budget_prepares_nothing_again(self, two_students, third_student):
        _, _, out = two_students
        _, ran, before = third_student
        after = rows(out)
        assert {kind: after[kind] for kind in PREPARED} == {kind: before[kind] for kind in PREPARED}
        assert not {"distilling", "measuring latencies"} & {
            name for name, total, _ in ran.bars if total
        }
        assert all((out / f"{budget}x@cpu").exists() for budget in ("0.6", "0.7", "0.8"))

    def test_summary_says_what_is_measured(self, two_students, third_student):
        _, _, out = two_students
        result, _, _ = third_student
        text = (out / "0.7x@cpu" / "summary.md").read_text()
        assert f"| latency (measured) | {result.student.outputs.teacher_latency} | " in text
        assert re.search(
            r"- `student\.onnx` \(onnx\): agrees with the student on \d+ real inputs within ", text
        )

    @pytest.mark.usefixtures("quick")
    def test_the_same_budget_finetunes_nothing_again(self, trained, tmp_path):
        first, _ = compile_tiny(trained, tmp_path, budget="flops=0.6x", pool="identity,slim")
        text = (tmp_path / "flops-0.6x@cpu" / "student.safetensors").read_bytes()
        second, ran = compile_tiny(trained, tmp_path, budget="flops=0.6x", pool="identity,slim")
        names = {name for name, _, _ in ran.bars}
        assert not {"distilling", "finetuning", "measuring latencies"} & names
        assert first.student.chosen == second.student.chosen
        assert (tmp_path / "flops-0.6x@cpu" / "student.safetensors").read_bytes() == text


@pytest.mark.usefixtures("quick")
class TestVariants:
    def test_budgets_combine(self, trained, tmp_path):
        result, _ = compile_tiny(
            trained, tmp_path, budget="flops=0.9x+params=30k", pool="identity,slim"
        )
        outputs = result.student.outputs
        assert outputs.costs["params"] <= 30_000
        assert outputs.costs["flops"] <= 0.9 * outputs.teacher_costs["flops"]
        assert (tmp_path / "flops-0.9x+params-30k@cpu" / "plan.json").exists()

    def test_pool_skip_distills_nothing(self, trained, tmp_path):
        result, ran = compile_tiny(trained, tmp_path, budget="flops=0.8x", pool="skip")
        assert "distilling" not in {name for name, _, _ in ran.bars}
        assert rows(tmp_path)["distilled"] == 0
        assert set(result.student.chosen.plan.ops) == {TEACHER, IDENTITY}

    def test_pytorch_alone(self, trained, tmp_path):
        result, _ = compile_tiny(trained, tmp_path, budget="flops=0.8x", pool="skip")
        assert result.student.outputs.files == {"pytorch": ("student.py", "student.safetensors")}
        files = {path.name for path in (tmp_path / "flops-0.8x@cpu").iterdir()}
        assert files == {"student.py", "student.safetensors", "plan.json", "summary.md"}

    def test_unlabelled_data(self, trained, tmp_path):
        """The distance to the teacher's outputs takes the place of the loss."""
        inputs = load_model_file(trained / "model.py").train_data.tensors[0]
        result, _ = compile_tiny(
            trained, tmp_path, budget="flops=0.7x", pool="identity,slim",
            train_data=TensorDataset(inputs[:300]), val_data=None,
        )  # fmt: skip
        assert result.student.task.metric_name == "agreement"
        assert result.student.outputs.teacher_metric == 100
        assert all(ops[TEACHER] == 0 for ops in result.student.scores.values())
        assert (
            "| agreement (30 samples) | 100.00 % | "
            in (tmp_path / "flops-0.7x@cpu" / "summary.md").read_text()
        )

    def test_own_loss_and_metric(self, trained, tmp_path):
        def loss(outputs, targets):
            return torch.nn.functional.multi_margin_loss(outputs, targets)

        def margin(outputs, targets):
            return float(outputs.gather(1, targets[:, None]).mean())

        compile_tiny(
            trained, tmp_path, budget="flops=0.7x", pool="identity,slim", loss=loss, metric=margin
        )
        file = load_model_file(trained / "model.py")
        inputs, labels = file.val_data.tensors
        with torch.no_grad():
            expected = margin(file.model.eval()(inputs), labels)
        plan = json.loads((tmp_path / "flops-0.7x@cpu" / "plan.json").read_text())
        assert plan["metric"]["name"] == "margin"
        assert plan["metric"]["teacher"] == pytest.approx(expected, rel=1e-5)

    def test_a_seed_gives_the_same_student(self, trained, tmp_path):
        students = [
            compile_tiny(trained, tmp_path / name, budget="flops=0.8x", pool="skip", seed=3)[0]
            for name in ("one", "two")
        ]
        ours, theirs = (result.student.student.module.state_dict() for result in students)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_on_another_number_of_threads_nothing_is_done_again(self, trained, tmp_path):
        class Threads(Recorder):
            def pass_started(self, name):
                super().pass_started((name, torch.get_num_threads()))

        def run(threads):
            given = {"budget": "flops=0.8x", "pool": "identity,slim(w=0.5)", "threads": threads}
            return compile_tiny(trained, tmp_path, instruments=Threads(), **given)

        before = torch.get_num_threads()
        first, ran = run(None)
        kept = rows(tmp_path)
        again, ran_again = run(before + 1)
        assert torch.get_num_threads() == before
        assert {count for _, count in ran.passes} == {before}
        assert {count for _, count in ran_again.passes} == {before + 1}
        trained_parts = {"distilling", "finetuning"}
        assert trained_parts <= {what.split()[0] for what, *_ in ran.bars}
        assert not trained_parts & {what.split()[0] for what, *_ in ran_again.bars}
        assert rows(tmp_path) == kept
        ours, theirs = (item.student.student.module.state_dict() for item in (first, again))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class TestCommand:
    def test_shows_one_screen(self, lanac, tiny):
        outcome = lanac(
            tiny, "--budget", "flops=0.8x", "--pool", "skip", "--emit", "pytorch", "--out", "here"
        )
        assert (outcome.status, outcome.err) == (0, "")
        for words in (
            "✓ trace program", "✓ emit student", "flops=0.8x on cpu:onnxruntime:fp32:b1:t1",
            "top-1 (200 samples)", "flops (counted)", "the budget flops=0.8x is met",
            "files in here/flops-0.8x@cpu: student.py, student.safetensors, plan.json, summary.md",
        ):  # fmt: skip
            assert words in outcome.out

    @pytest.mark.usefixtures("quick")
    def test_the_teacher_is_not_changed(self, trained, tmp_path):
        file = load_model_file(trained / "model.py")
        before = {name: value.clone() for name, value in file.model.state_dict().items()}
        compile_model(
            file.model, train_data=file.train_data, budget="flops=0.7x", out=tmp_path,
            pool="identity,slim", emit="pytorch", settings=SETTINGS,
        )  # fmt: skip
        after = file.model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
