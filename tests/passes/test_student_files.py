"""A student's files: one export for all, nothing published that does not agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends import onnx as onnx_backend
from lanac.backends.onnx_files import read_signature
from lanac.errors import BackendError
from lanac.passes.student_files import StudentFiles, teacher_file
from lanac.targets import parse_target


class Large(nn.Module):
    """Its values exceed fp16 and come back."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e3 * 1e3 * 1e-3 * 1e-3


def linear() -> fx.GraphModule:
    torch.manual_seed(0)
    return fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3))).eval()


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Every network that is exported."""
    networks: list[nn.Module] = []
    export = onnx_backend.export_model

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        networks.append(module)
        return export(module, inputs)

    monkeypatch.setattr(onnx_backend, "export_model", record)
    return networks


def test_one_export_serves_all_outputs(exports: list[nn.Module], tmp_path: Path) -> None:
    student, x = linear(), torch.randn(6, 4)
    target, folder = parse_target("v100"), tmp_path / "0.5x@v100"
    with StudentFiles(student, (x,), target, folder) as written:
        for name in ("pytorch", "onnx", "onnx_bf16", "tensorrt", "triton"):
            written.add(name, classes=True)
        assert not folder.exists()
        written.publish()
        assert written.read_as("onnx") == (folder / "student.onnx",)
        (made, *_) = written.read_as("onnx_fp16")  # not asked for: for the moment
        assert made.exists() and made.parent != folder
    assert exports == [student]
    assert written.files == {
        "pytorch": ("student.py", "student.safetensors"),
        "onnx": ("student.onnx",),
        "onnx_bf16": ("student.bf16.onnx",),
        "tensorrt": ("student.fp16.onnx", "build_engine.sh"),
        "triton": ("triton/student/config.pbtxt", "triton/student/1/model.onnx"),
    }
    assert all((folder / name).exists() for names in written.files.values() for name in names)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # nothing is left aside
    for name, found in written.verified.items():
        assert found.is_good and found.samples == 6 and found.same == 1.0, name
    assert {name: found.precision for name, found in written.verified.items()} == {
        "pytorch": "fp32",
        "onnx": "fp32",
        "onnx_bf16": "bf16",
        "tensorrt": "fp16",
        "triton": "fp16",
    }


def test_source_alone_needs_no_export(exports: list[nn.Module], tmp_path: Path) -> None:
    with StudentFiles(
        linear(), (torch.randn(2, 4),), parse_target("cpu"), tmp_path / "s"
    ) as written:
        written.add("pytorch", classes=False)
        written.publish()
    assert exports == []
    assert written.verified["pytorch"].same is None


def test_an_overflow_ends_the_run_and_is_kept_aside(tmp_path: Path) -> None:
    student, folder = fx.symbolic_trace(Large()).eval(), tmp_path / "0.5x@rtx3090"
    x = torch.tensor([[0.5, -0.25], [1e-6, -1e-6]])
    with StudentFiles(student, (x,), parse_target("rtx3090"), folder) as written:
        written.add("onnx", classes=False)
        written.add("onnx_bf16", classes=False)
        with pytest.raises(BackendError) as caught:
            written.add("onnx_fp16", classes=False)
    assert re.fullmatch(
        r"student\.fp16\.onnx overflows: the largest value of fp16 is 65,504, and Mul '\w+' gives "
        r"5e\+05 \(relative difference \S+ on 2 real inputs, at most 2e-02 expected\)\. Use bf16 or "
        rf"fp32: precision is a part of --target\. The file is kept in {tmp_path}/rejected for "
        r"inspection",
        str(caught.value),
    )
    assert not folder.exists()
    assert (tmp_path / "rejected" / "student.fp16.onnx").exists()


def test_the_teacher_is_written_once_for_all_its_students(start: Any) -> None:
    compilation = start("flops=0.6x", "skip")
    path = teacher_file(compilation, compilation.example)
    assert path == compilation.out / "teacher.onnx"
    before = path.stat().st_mtime_ns
    assert teacher_file(compilation, compilation.example) == path
    assert path.stat().st_mtime_ns == before
    # Of another input size it is another file.
    path.write_bytes(smaller(path))
    teacher_file(compilation, compilation.example)
    (value,) = read_signature(path).inputs
    assert value.shape == (None, *compilation.example[0].shape[1:])


def smaller(path: Path) -> bytes:
    import onnx

    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 6
    return bytes(model.SerializeToString())
