"""`lanac export`: further outputs of a finished student, made of its ONNX model alone."""

from __future__ import annotations

import json

import onnx
import pytest

import lanac as library
from lanac.backends import agreement
from lanac.backends._engines import check_engine, library_version
from lanac.errors import CommandError
from lanac.workspace import checksum


@pytest.fixture
def run(lanac):
    return lambda *arguments: lanac("export", *arguments, small=False)


@pytest.mark.skipif(library_version("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
def test_an_engine_later_and_nothing_is_executed(run, finished):
    outcome = run(finished, "--emit", "tensorrt_rtx", "--target", "rtx3090")
    assert (outcome.status, outcome.err) == (0, "")
    folder = finished / "rtx3090"
    names = ["export.json", "student.fp16.onnx", "student.rtx.engine"]
    assert sorted(path.name for path in folder.iterdir()) == names
    check_engine(folder / "student.rtx.engine")
    first, second, last = outcome.out.splitlines()
    assert first.startswith(
        "tensorrt_rtx: student.rtx.engine, student.fp16.onnx: agrees with the student on 16 random "
        "inputs in fp16 within "
    )
    assert second.startswith("  student.rtx.engine was built and its header checked, but not run: ")
    assert last == ("files in model.lanac/0.5x@cpu/rtx3090, for rtx3090:tensorrt:fp16:b32:t1")


def test_what_was_made_is_recorded_and_added_to(run, finished, tmp_path):
    for emit, target in (("onnx_fp16,tensorrt", "v100"), ("triton", "v100:fp32")):
        out = tmp_path / "out"
        outcome = run(finished, "--emit", emit, "--target", target, "--out", out)
        assert outcome.status == 0, outcome.err
    record = json.loads((out / "export.json").read_text())
    assert list(record["outputs"]) == ["onnx_fp16", "tensorrt", "triton"]
    made = record["outputs"]["tensorrt"]
    assert made["target"] == "v100:tensorrt:fp16:b128:t1"
    assert list(made["files"]) == ["student.fp16.onnx", "build_engine.sh"]
    assert all(checksum(out / name) == known for name, known in made["files"].items())
    assert made["verified"]["precision"] == "fp16" and made["verified"]["same"] is None
    assert made["inputs"] == "random"
    assert record["outputs"]["triton"]["verified"]["precision"] == "fp32"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_students_own_target_is_the_default(finished, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    made = library.export(finished, emit="openvino")
    assert str(made.target) == "cpu:onnxruntime:fp32:b1:t1"
    assert made.files == {"openvino": ("student.xml", "student.bin")}
    assert made.verified["openvino"].error < 1e-5
    assert made.folder == finished / "cpu"


def test_a_changed_model_is_refused(run, finished, tmp_path):
    path = tmp_path / finished / "student.onnx"
    model = onnx.load(path)
    model.doc_string = "changed"
    onnx.save(model, path)
    outcome = run(finished, "--emit", "onnx_fp16")
    assert (outcome.status, outcome.err) == (
        1,
        "lanac: model.lanac/0.5x@cpu/student.onnx is not what lanac wrote: its checksum is not the "
        "one in plan.json; compile again: it is quick now\n",
    )
    assert not (finished / "cpu").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"files": {"pytorch": ["student.py"]}},
            "model.lanac/0.5x@cpu has no student.onnx, of which other outputs are made; compile "
            "again with --emit pytorch,onnx: what is finished is not computed again",
        ),
        (
            {"checksums": {}},
            "model.lanac/0.5x@cpu/plan.json has no checksum of student.onnx: an older lanac wrote "
            "it; compile again: it is quick now",
        ),
        (
            {"files": {"onnx": ["gone.onnx"]}, "checksums": {"gone.onnx": "0"}},
            "model.lanac/0.5x@cpu/gone.onnx is missing; compile again: it is quick now",
        ),
        (
            {"files": []},
            "model.lanac/0.5x@cpu/plan.json is damaged: AttributeError: 'list' object has no "
            "attribute 'items'; compile again: it is quick now",
        ),
        (
            {"schema": None},
            "model.lanac/0.5x@cpu/plan.json was written by an older lanac; compile again: it is "
            "quick now",
        ),
    ],
)
def test_a_folder_that_is_no_whole_student(run, finished, tmp_path, change, message):
    path = tmp_path / finished / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    outcome = run(finished, "--emit", "onnx_fp16")
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("nowhere", "--emit", "onnx_fp16"),
            "nowhere: expected the folder of a student, with its plan.json; No such file or "
            "directory",
        ),
        (
            ("model.lanac/0.5x@cpu", "--emit", "pytorch"),
            "output 'pytorch' is made while compiling, not of a finished student; what can be made "
            "of its student.onnx: onnx_bf16, onnx_fp16, openvino, tensorrt, tensorrt_rtx, triton",
        ),
        (
            ("model.lanac/0.5x@cpu", "--emit", "tensorrt_rtx", "--target", "h100"),
            "output 'tensorrt_rtx' cannot be written here: TensorRT-RTX does not support NVIDIA "
            "H100 SXM5 80 GB (compute capability 9.0)",
        ),
        (
            ("model.lanac/0.5x@cpu", "--emit", "tensorrt", "--target", "v100:tensorrt11"),
            "target 'v100:tensorrt11': TensorRT 11.0 does not support NVIDIA V100 SXM2 16 GB; the "
            "last one that does is 10.4, and without a number that is taken",
        ),
        (
            ("model.lanac/0.5x@cpu", "--emit", "tensorrt_rtx", "--target", "t4:bf16"),
            "target 't4:bf16': tensorrt on t4 computes in fp16, fp32, not in bf16",
        ),
        (
            ("model.lanac/0.5x@cpu", "--emit", ","),
            "no output is asked for; known: onnx, onnx_bf16, onnx_fp16, openvino, pytorch, "
            "tensorrt, tensorrt_rtx, triton",
        ),
    ],
)
def test_the_impossible_is_refused_before_any_work(run, finished, arguments, message):
    outcome = run(*arguments)
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")
    assert sorted(path.name for path in finished.iterdir()) == [
        "plan.json",
        "student.onnx",
        "student.py",
    ]


def test_what_does_not_agree_is_not_left_behind(run, finished, monkeypatch):
    monkeypatch.setitem(agreement.TOLERANCES, "fp16", 1e-9)
    outcome = run(finished, "--emit", "onnx_fp16")
    assert outcome.status == 1
    assert outcome.err.startswith(
        "lanac: student.fp16.onnx does not agree with the student in fp16: relative difference "
    )
    assert outcome.err.endswith(
        "on 16 random inputs, at most 1e-09 expected. Use bf16 or fp32: precision is a part of "
        "--target\n"
    )
    assert list((finished / "cpu").iterdir()) == []


def test_emit_has_to_be_said(run, finished):
    assert run(finished).err == (
        "lanac: Missing option '--emit'. (lanac export --help lists the options)\n"
    )


def test_the_error_is_of_the_library_too(tmp_path):
    with pytest.raises(CommandError):
        library.export(tmp_path, emit="onnx_fp16")
