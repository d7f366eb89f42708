"""TensorRT-RTX engines, built here for GPUs that are not."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends import _engines, _nvidia
from lanac.backends._engines import build_engine, check_engine, convert_arguments
from lanac.backends.base import RUNTIMES
from lanac.backends.onnx_files import Signature, Value
from lanac.backends.tensorrt_rtx import BACKEND, RUNTIME
from lanac.errors import BackendError
from lanac.targets import device, parse_target

needs_builder = pytest.mark.skipif(
    _engines.library_version("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)


@needs_builder
def test_an_engine_for_each_precision_and_what_it_was_built_of(
    exact: tuple[fx.GraphModule, Path], tmp_path: Path
) -> None:
    student, model = exact
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = student(x)
    for text, bound in (
        ("rtx3090:tensorrt_rtx:b16", 2e-3),
        ("rtx4090:pytorch:fp32", 1e-4),
        ("rtx5090:bf16", 2e-2),
    ):
        target = parse_target(text)
        assert BACKEND.unavailable(target) is None
        assert BACKEND.precision(target) == target.precision
        folder = tmp_path / target.short
        folder.mkdir()
        files = BACKEND.convert(model, folder, target)
        onnx = "student.onnx" if "fp32" in text else f"student.{target.precision}.onnx"
        assert [path.name for path in files] == ["student.rtx.engine", onnx]
        assert sorted(path.name for path in folder.iterdir()) == sorted(p.name for p in files)
        check_engine(files[0])
        (got,) = BACKEND.load(files, target)(x)
        assert (got - want).abs().max() < bound * want.abs().max()
        (note,) = BACKEND.notes(files, target)
        assert note == (
            "student.rtx.engine was built and its header checked, but not run: this machine has no "
            f"CUDA device that torch can use. What was compared is {onnx}, of which it was built"
        )


@needs_builder
def test_turing_takes_fp16_alone(exact: tuple[fx.GraphModule, Path], tmp_path: Path) -> None:
    files = BACKEND.convert(exact[1], tmp_path, parse_target("t4"))
    check_engine(files[0])


class Nested(nn.Module):
    """Two inputs, one without batch; outputs in a nest."""

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor | list[Tensor]]:
        return {"sum": image + scale, "parts": [image * 2, scale - 1]}


@needs_builder
def test_several_inputs_and_nested_outputs(tmp_path: Path) -> None:
    target = parse_target("rtx3090:tensorrt_rtx:fp16")
    module = fx.symbolic_trace(Nested()).eval()
    image, scale = torch.randn(3, 4), torch.randn(4)
    files = BACKEND.emit(module, tmp_path, (image, scale), target)
    got = BACKEND.load(files, target)(image, scale)
    for ours, theirs in zip(got, (image + scale, image * 2, scale - 1), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)


@needs_builder
def test_what_the_builder_refuses_is_said_in_one_line(
    exact_linear: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    # Turing refuses fp32 matrix products: asking for it is refused before, so it is asked directly.
    target = parse_target("t4:tensorrt:fp32")
    with pytest.raises(BackendError) as caught:
        BACKEND.convert(exact_linear[1], tmp_path, target)
    text = str(caught.value)
    assert text.startswith("TensorRT-RTX builds no engine: Myelin (Cannot compile operation")
    assert "FP32 GEMM is not supported" in text and "\n" not in text
    assert not (tmp_path / "student.rtx.engine").exists()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("v100", "TensorRT-RTX does not support NVIDIA V100 SXM2 16 GB (compute capability 7.0)"),
        ("h100", "TensorRT-RTX does not support NVIDIA H100 SXM5 80 GB (compute capability 9.0)"),
        ("orin", "TensorRT-RTX does not support NVIDIA Jetson AGX Orin 64 GB (compute capability 8.7)"),
        ("t4:pytorch:fp32", "TensorRT-RTX on t4 computes in fp16, not in fp32"),
        ("cpu", "TensorRT-RTX runs on NVIDIA GPUs, and cpu is none"),
        (
            "cuda",
            "cuda is this machine's first CUDA device, and there is none; name the device that the "
            "files are for, such as rtx3090",
        ),
    ],
)  # fmt: skip
def test_the_impossible_is_refused(
    target: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_nvidia, "cuda_device", lambda: None)
    assert BACKEND.unavailable(parse_target(target)) == reason
    assert RUNTIME.unavailable(parse_target(target)) == reason


def test_where_the_library_is_missing_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_target("rtx3090")
    there = _engines.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "tensorrt_rtx" else there(name)
    )
    message = "tensorrt-rtx is not installed (pip install tensorrt-rtx)"
    assert BACKEND.unavailable(target) == message
    assert RUNTIME.unavailable(target) == message


def test_a_gpu_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvidia, "library_version", lambda library: "1.7")
    monkeypatch.setattr(device, "cuda_device", lambda: "NVIDIA T4")
    found = RUNTIME.unavailable(parse_target("rtx3090:tensorrt_rtx"))
    assert found == "this machine's first CUDA device is NVIDIA T4, no NVIDIA GeForce RTX 3090"
    assert RUNTIMES.get("tensorrt_rtx") is RUNTIME


SIGNATURE = Signature(
    (Value("x", "float32", (None, 3, 32, 32)), Value("scale", "float32", (4,))),
    (Value("y", "float32", (None, 10)),),
)


def test_the_profile_is_dynamic_and_best_at_the_targets_batch() -> None:
    assert convert_arguments("m.onnx", "e", SIGNATURE, 128, capability=(8, 6)) == [
        *("convert", "m.onnx", "--convert-to", "trt", "-o", "e"),
        *("--trt-min-shapes", "x:[1,3,32,32]"),
        *("--trt-opt-shapes", "x:[128,3,32,32]"),
        *("--trt-max-shapes", "x:[128,3,32,32]"),
        *("--compute-capabilities", "8.6"),
    ]
    small = convert_arguments("m.onnx", "e", SIGNATURE, 1, timing_cache="t")
    assert small[small.index("--trt-max-shapes") + 1] == "x:[8,3,32,32]"
    assert small[-5:] == [
        "--strongly-typed",
        *("--load-timing-cache", "t", "--save-timing-cache", "t"),
    ]


def header(length: int) -> bytes:
    return struct.pack("<4s4xI4xQ", b"vtrt", 2, length)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "e is no engine: expected the header of TensorRT-RTX, got b''"),
        (
            b"\x08\x08\x12\x07" * 10,
            r"e is no engine: expected the header of TensorRT-RTX, got "
            r"b'\x08\x08\x12\x07\x08\x08\x12\x07'",
        ),
        (
            header(2000) + b"0" * 100,
            "e is no whole engine: its header says 2,000 bytes, it has 124",
        ),
    ],
)
def test_what_is_no_engine(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_bytes(content)
    with pytest.raises(BackendError) as caught:
        check_engine(path)
    assert str(caught.value) == message


def run_of(returncode: int, stdout: str) -> Callable[..., Any]:
    def run(command: list[str], **options: Any) -> Any:
        assert command[:2] == [sys.executable, "-c"]
        assert options["env"]["POLYGRAPHY_USE_TENSORRT_RTX"] in ("0", "1")
        return subprocess.CompletedProcess(command, returncode, stdout, None)

    return run


@pytest.mark.parametrize(
    ("library", "returncode", "stdout", "message"),
    [
        ("tensorrt_rtx", -11, "", "TensorRT-RTX builds no engine: the builder crashed (SIGSEGV)"),
        ("tensorrt", 1, "", "TensorRT builds no engine: exit status 1"),
        ("tensorrt", 1, "first\nlast\n", "TensorRT builds no engine: first"),
        (
            "tensorrt",
            1,
            "[I] hello\n[E] In node 3: unsupported\n[!] Invalid Engine.",
            "TensorRT builds no engine: In node 3: unsupported",
        ),
    ],
)
def test_a_failed_build(
    library: str,
    returncode: int,
    stdout: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "run", run_of(returncode, stdout))
    with pytest.raises(BackendError) as caught:
        build_engine(["convert"], tmp_path, library)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_two_libraries_do_not_meet_in_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import polygraphy.config

    monkeypatch.setitem(os.environ, "POLYGRAPHY_USE_TENSORRT_RTX", "0")
    monkeypatch.setattr(polygraphy.config, "USE_TENSORRT_RTX", False)
    with pytest.raises(BackendError) as caught:
        _engines.timed_engine(tmp_path / "e", {}, "tensorrt_rtx")
    assert str(caught.value) == (
        "TensorRT and TensorRT-RTX engines cannot be run in one process: run them one by one"
    )
