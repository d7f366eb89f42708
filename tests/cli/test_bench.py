"""`lanac bench`: teacher and student side by side, from their files."""

from __future__ import annotations

import json

import onnx
import pytest

import lanac as library
from lanac import benching
from lanac.backends.openvino import Openvino
from lanac.targets import parse_target


@pytest.fixture
def run(lanac):
    return lambda *arguments: lanac("bench", *arguments, small=False)


def test_teacher_and_student_and_where_it_was_measured(run, finished):
    outcome = run(finished, "--rounds", "6")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()[-5:]
    assert lines[0] == "model.lanac/0.5x@cpu on cpu:onnxruntime:fp32:b1:t1"
    assert [line.split()[0] for line in lines[1:4]] == ["teacher", "student", "ratio"]
    assert lines[4] == (
        "measured here: medians and quartiles of 6 interleaved rounds, CPU time of one thread"
    )


def test_json_has_standard_output_for_itself(run, finished):
    outcome = run(finished, "--rounds=3", "--json", "--target=cpu:b4:t2")
    record = json.loads(outcome.out)
    assert record["target"] == "cpu:onnxruntime:fp32:b4:t2"
    assert record["clock"] == "wall"
    assert record["version"].startswith("onnxruntime ")
    assert record["teacher_ms"]["rounds"] == record["student_ms"]["rounds"] == 3
    assert record["ratio"]["low"] <= record["ratio"]["median"] <= record["ratio"]["high"]


def test_the_ratio_is_that_of_interleaved_rounds(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # Three sessions of two rounds each: the machine slows down, the ratio does not change.
    taken = [[float(1 + session + 10 * turn) * factor for turn in range(2)]
             for session in range(3) for factor in (2.0, 1.0)]  # fmt: skip
    monkeypatch.setattr(benching, "sample_interleaved", lambda samplers, **_: taken)
    found = library.bench(finished, rounds=6)
    assert (found.ratio, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.teacher_ms.median_ms == 2 * found.student_ms.median_ms
    assert found.student_ms.rounds == 6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_runtime_gets_its_files_for_the_moment(run, finished, precision):
    pytest.importorskip("openvino")
    target = f"cpu:openvino:{precision}"
    if precision == "bf16" and (reason := Openvino().unavailable(parse_target(target))):
        pytest.skip(reason)
    outcome = run(finished, "--rounds=3", f"--target={target}")
    assert outcome.status == 0, outcome.err
    assert f"on {target}:b1:t1" in outcome.out
    assert not (finished / "student.xml").exists()


def test_a_precision_that_the_processor_lacks(run, finished, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr("lanac.backends.openvino._capabilities", lambda: ["FP32"])
    outcome = run(finished, "--target=cpu:openvino:bf16")
    assert (outcome.status, outcome.out, outcome.err) == (
        1,
        "",
        "lanac: nothing can be timed on cpu:openvino:bf16:b1:t1 here: this machine's processor "
        "does not compute in bf16\n",
    )


def test_a_teacher_from_elsewhere(run, finished, tmp_path):
    teacher = tmp_path / "model.lanac" / "teacher.onnx"
    teacher.rename(tmp_path / "mine.onnx")
    outcome = run(finished, "--rounds=3")
    assert (outcome.status, outcome.err) == (
        1,
        "lanac: model.lanac/0.5x@cpu/../teacher.onnx is missing: the teacher of the student in "
        "model.lanac/0.5x@cpu. Put it back, or name it with --teacher FILE.onnx\n",
    )
    assert run(finished, "--rounds=3", "--teacher", "mine.onnx").status == 0


def test_a_changed_teacher_is_refused(run, finished, tmp_path):
    path = tmp_path / "model.lanac" / "teacher.onnx"
    model = onnx.load(path)
    model.doc_string = "changed"
    onnx.save(model, path)
    assert run(finished).err == (
        "lanac: model.lanac/0.5x@cpu/../teacher.onnx is not what lanac wrote: its checksum is not "
        "the one in plan.json; compile again: it is quick now\n"
    )


def test_another_network_is_not_the_teacher(run, finished, tmp_path):
    model = onnx.load(tmp_path / "model.lanac" / "teacher.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9
    onnx.save(model, tmp_path / "other.onnx")
    assert run(finished, "--teacher", "other.onnx").err == (
        "lanac: other.onnx is not the teacher of this student: it takes float32(B, 9), the student "
        "float32(B, 8)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--target", "xeon_4114"),
            "nothing can be timed on xeon_4114:onnxruntime:fp32:b1:t1 here: this machine's "
            "processor is no Intel Xeon Silver 4114",
        ),
        (
            ("--target", "cpu:pytorch"),
            "pytorch runs source code, and no code of a finished student is executed here; name a "
            "runtime that runs its ONNX model with --target: onnxruntime, openvino",
        ),
        (("--teacher", "gone.onnx"), "--teacher 'gone.onnx': there is no such file"),
    ],
)
def test_what_cannot_be_timed(run, finished, arguments, message):
    outcome = run(finished, *arguments)
    assert (outcome.status, outcome.out, outcome.err) == (1, "", f"lanac: {message}\n")


def test_a_folder_that_is_no_student(run, tmp_path):
    assert run(".").err == (
        "lanac: .: expected the folder of a student, with its plan.json; No such file or directory\n"
    )
