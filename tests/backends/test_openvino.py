"""The OpenVINO output: files that load without lanac and compute what the student computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends.openvino import BACKEND, compile_model
from lanac.errors import BackendError
from lanac.targets import parse_target

pytest.importorskip("openvino")
CPU = parse_target("cpu:openvino")


def test_the_emitted_model_computes_what_the_student_computes(
    student: fx.GraphModule, tmp_path: Path
) -> None:
    assert BACKEND.unavailable(CPU) is None
    files = BACKEND.emit(student, tmp_path, (torch.randn(1, 3, 32, 32),), CPU)
    assert [path.name for path in files] == ["student.xml", "student.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.bin", "student.xml"]
    run = BACKEND.load(files, CPU)
    for batch in (1, 3):  # the batch is dynamic
        x = torch.randn(batch, 3, 32, 32)
        (got,) = run(x)
        with torch.no_grad():
            expected = student(x)
        assert got.shape == expected.shape
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_weights_are_stored_in_fp16_for_an_fp16_target_alone(
    student: fx.GraphModule, tmp_path: Path
) -> None:
    sizes = {}
    for precision in ("fp32", "bf16", "fp16"):
        target = parse_target(f"cpu:openvino:{precision}")
        assert BACKEND.precision(target) == precision
        _, weights = BACKEND.emit(student, tmp_path, (torch.randn(1, 3, 32, 32),), target)
        sizes[precision] = weights.stat().st_size
    assert sizes["fp32"] == sizes["bf16"]
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


def test_the_precision_is_named_because_the_file_does_not_hold_it(tmp_path: Path) -> None:
    (note,) = BACKEND.notes((), parse_target("cpu:openvino:bf16"))
    assert note == (
        'student.xml computes in bf16 with core.compile_model(..., "CPU", '
        '{"INFERENCE_PRECISION_HINT": "bf16"}); without the hint OpenVINO chooses by itself'
    )


FREED_ELSEWHERE = """
import os, pathlib, signal, sys, threading
from lanac.backends.openvino import compile_model

held = [compile_model(pathlib.Path(sys.argv[1]), "fp32", 1)]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_handled_after_a_network_was_freed_in_another_thread(
    student: fx.GraphModule, tmp_path: Path
) -> None:
    """OpenVINO's own clearing up would leave this thread a signal stack that is no more."""
    files = BACKEND.emit(student, tmp_path, (torch.randn(1, 3, 32, 32),), CPU)
    command = [sys.executable, "-c", FREED_ELSEWHERE, str(files[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


class Nested(nn.Module):
    """Two inputs, outputs in a nest."""

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor | list[Tensor]]:
        return {"sum": image + scale, "parts": [image * 2, scale - 1]}


def test_several_inputs_and_nested_outputs(tmp_path: Path) -> None:
    module = fx.symbolic_trace(Nested()).eval()
    a, b = torch.randn(2, 4), torch.randn(2, 4)
    run = BACKEND.load(BACKEND.emit(module, tmp_path, (a, b), CPU), CPU)
    got = run(a, b)
    for ours, theirs in zip(got, (a + b, a * 2, b - 1), strict=True):
        torch.testing.assert_close(ours, theirs)
    # The outputs of an inference stay what they are after the next one.
    run(b, a)
    torch.testing.assert_close(got[1], a * 2)


def test_a_gpu_is_not_for_openvino() -> None:
    reason = BACKEND.unavailable(parse_target("v100"))
    assert reason == "OpenVINO runs on CPUs, and v100 is none"


def test_where_openvino_is_missing_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert BACKEND.unavailable(CPU) == "openvino is not installed (pip install openvino)"


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "student.xml"
    path.write_text("<net")
    with pytest.raises(BackendError, match=r"^OpenVINO refuses the model: "):
        compile_model(path, "fp32", threads=1)
