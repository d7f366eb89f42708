"""TensorRT without a GPU: the script that builds an engine elsewhere; with a fake one: the engine."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends import _engines, _nvidia, tensorrt
from lanac.backends._nvidia import wanted_version
from lanac.backends.base import RUNTIMES
from lanac.backends.onnx import export_model, save_model
from lanac.backends.tensorrt import BACKEND, RUNTIME
from lanac.errors import BackendError
from lanac.targets import parse_target
from lanac.targets.device import Device

V100 = parse_target("v100")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvidia, "cuda_device", lambda: None)
    monkeypatch.setattr(_nvidia, "library_version", lambda library: None)


def test_without_a_gpu_onnx_and_a_script(
    exact_linear: tuple[nn.Module, Path], tmp_path: Path, no_gpu: None
) -> None:
    assert BACKEND.unavailable(V100) is None
    assert BACKEND.unbuilt(V100) == "tensorrt is not installed (pip install tensorrt)"
    linear, model = exact_linear
    x = torch.randn(2, 4)
    files = BACKEND.convert(model, tmp_path, V100)
    assert [path.name for path in files] == ["student.fp16.onnx", "build_engine.sh"]
    assert files[1].stat().st_mode & stat.S_IXUSR
    (got,) = BACKEND.load(files, V100)(x)
    with torch.no_grad():
        torch.testing.assert_close(got, linear(x), atol=5e-3, rtol=5e-3)
    assert BACKEND.notes(files, V100) == (
        "no engine was built: tensorrt is not installed (pip install tensorrt). Run "
        "./build_engine.sh on the machine with NVIDIA V100 SXM2 16 GB: it needs TensorRT 10.4 (pip "
        "install 'tensorrt==10.4.*' polygraphy). What was compared is student.fp16.onnx",
    )


@pytest.mark.parametrize(
    ("target", "version", "pip"),
    [
        ("v100", "10.4", "tensorrt==10.4.*"),
        ("v100:tensorrt10.1", "10.1", "tensorrt==10.1.*"),
        ("a100", "10.4 or newer", "tensorrt>=10.4"),
        ("a100:tensorrt11", "11.0", "tensorrt==11.0.*"),
        ("a100:bf16", "10.15 or newer", "tensorrt>=10.15"),
        ("rtx5090", "10.8 or newer", "tensorrt>=10.8"),
    ],
)
def test_the_version_fits_the_device(target: str, version: str, pip: str) -> None:
    assert wanted_version(parse_target(target)) == version
    assert tensorrt._pip(parse_target(target)) == f"pip install '{pip}' polygraphy"


FAKE = """
import sys
from pathlib import Path
def main():
    Path("arguments").write_text("\\n".join(sys.argv[1:]))
    Path("student.engine").write_text("engine")
"""


def run_script(folder: Path, version: str | None) -> subprocess.CompletedProcess[str]:
    """Runs the script from another folder, with fake packages in the place of the real ones."""
    fake = folder / "fake"
    (fake / "polygraphy" / "tools").mkdir(parents=True)
    (fake / "polygraphy" / "__init__.py").touch()
    (fake / "polygraphy" / "tools" / "__init__.py").write_text(FAKE)
    missing = "raise ImportError" if version is None else f"__version__ = {version!r}"
    (fake / "tensorrt.py").write_text(missing)
    return subprocess.run(
        [str(folder / "build_engine.sh")],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(fake)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_builds_where_the_right_version_is(
    exact_linear: tuple[nn.Module, Path], tmp_path: Path, no_gpu: None
) -> None:
    BACKEND.convert(exact_linear[1], tmp_path, V100)
    done = run_script(tmp_path, "10.4.0.26")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "built student.engine\n"
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == [
        *("convert", "student.fp16.onnx", "--convert-to", "trt", "-o", "student.engine"),
        *("--trt-min-shapes", "input:[1,4]"),
        *("--trt-opt-shapes", "input:[128,4]"),
        *("--trt-max-shapes", "input:[128,4]"),
        "--strongly-typed",
        *("--load-timing-cache", "timing.cache", "--save-timing-cache", "timing.cache"),
    ]
    # polygraphy itself takes every one of these arguments: it stops at the library that is missing.
    checked = subprocess.run(
        [sys.executable, "-c", _engines.POLYGRAPHY, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "usage:" not in checked.stderr + checked.stdout
    assert "tensorrt" in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("target", "version", "message"),
    [
        ("v100", "10.5.0", "expected TensorRT 10.4, found 10.5.0: pip install 'tensorrt==10.4.*'"),
        ("v100", None, "expected TensorRT 10.4, found none: pip install 'tensorrt==10.4.*'"),
        ("a100", "8.6.1", "expected TensorRT 10.4 or newer, found 8.6.1: pip install 'tensorrt>=10.4'"),
    ],
)  # fmt: skip
def test_the_script_refuses_another_version(
    target: str,
    version: str | None,
    message: str,
    exact_linear: tuple[nn.Module, Path],
    tmp_path: Path,
    no_gpu: None,
) -> None:
    BACKEND.convert(exact_linear[1], tmp_path, parse_target(target))
    done = run_script(tmp_path, version)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{message} polygraphy\n"
    assert not (tmp_path / "student.engine").exists()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("cpu", "TensorRT runs on NVIDIA GPUs, and cpu is none"),
        (
            "cuda:tensorrt",
            "cuda is this machine's first CUDA device, and there is none; name the device that the "
            "files are for, such as rtx3090",
        ),
    ],
)
def test_the_impossible_is_refused(target: str, reason: str, no_gpu: None) -> None:
    assert BACKEND.unavailable(parse_target(target)) == reason
    assert RUNTIME.unavailable(parse_target(target)) == reason


def test_the_runtime_says_why_it_cannot_time(no_gpu: None) -> None:
    assert RUNTIMES.get("tensorrt") is RUNTIME
    assert (RUNTIME.name, RUNTIME.reads) == ("tensorrt", "tensorrt")
    assert RUNTIME.unavailable(V100) == "tensorrt is not installed (pip install tensorrt)"


class FakeRunner:
    """What polygraphy's TrtRunner does, on the CPU: y = 2 x, in memory that it uses again."""

    def __init__(self, engine: str) -> None:
        self.batches: list[int] = []
        self.options: list[Mapping[str, Any]] = []
        self._memory = torch.empty(0)

    def activate(self) -> None:
        pass

    def infer(self, feed: Mapping[str, Tensor], **options: Any) -> dict[str, Tensor]:
        (x,) = feed.values()
        self.batches.append(len(x))
        self.options.append(options)
        if self._memory.shape != x.shape:
            self._memory = torch.empty_like(x)
        self._memory.copy_(2 * x)
        return {"output": self._memory}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A V100 with TensorRT 10.4, as far as lanac can see; returns what was asked of polygraphy."""
    asked: list[list[str]] = []

    def build(arguments: list[str], folder: Path, library: str) -> None:
        assert library == "tensorrt"
        asked.append(list(arguments))
        Path(arguments[arguments.index("-o") + 1]).write_bytes(b"engine")
        if "--save-timing-cache" in arguments:
            Path(arguments[-1]).write_bytes(b"cache")

    monkeypatch.setattr(_nvidia, "cuda_device", lambda: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(Device, "is_here", lambda device: device.name in ("v100", "cuda"))
    monkeypatch.setattr(_nvidia, "library_version", lambda library: "10.4.0")
    for module in (_nvidia, tensorrt):
        monkeypatch.setattr(module, "build_engine", build)
    trt = SimpleNamespace(TrtRunner=FakeRunner, EngineFromPath=lambda path: path)
    monkeypatch.setattr(_engines, "_polygraphy", lambda library: trt)
    monkeypatch.setattr(Tensor, "cuda", lambda tensor: tensor)
    return asked


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the network that the fake runner computes."""
    folder = tmp_path_factory.mktemp("double")
    return save_model(export_model(Double().eval(), (torch.zeros(2, 3),)), folder)[0]


def test_with_a_gpu_the_engine_is_built_and_run(
    double: Path, gpu: list[list[str]], tmp_path: Path
) -> None:
    target = parse_target("v100:b4")
    assert BACKEND.unbuilt(target) is None
    files = BACKEND.convert(double, tmp_path, target)
    names = ["student.engine", "student.fp16.onnx", "timing.cache"]
    assert [path.name for path in files] == names
    assert BACKEND.notes(files, target) == ()
    ((*_, cache),) = gpu
    assert cache == str(tmp_path / "timing.cache")
    x = torch.randn(19, 3)
    (got,) = BACKEND.load(files, target)(x)
    # More samples than the engine takes at once: 8, 8 and 3, none overwritten by the next.
    assert torch.equal(got, 2 * x)


def test_another_version_than_the_device_needs_gives_a_script(
    double: Path,
    gpu: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_nvidia, "library_version", lambda library: "11.2.0")
    files = BACKEND.convert(double, tmp_path, V100)
    assert [path.name for path in files] == ["student.fp16.onnx", "build_engine.sh"]
    assert not gpu
    reason = BACKEND.unbuilt(V100)
    assert reason == "TensorRT 11.2.0 is installed, and the target needs 10.4"
    assert RUNTIME.unavailable(V100) == reason


def test_an_op_is_timed_with_its_inputs_on_the_gpu(
    double: Path, gpu: list[list[str]], tmp_path: Path
) -> None:
    x = torch.ones(128, 3)
    assert RUNTIME.unavailable(V100) is None
    files = RUNTIME.write(fx.symbolic_trace(Double()).eval(), (x,), tmp_path, V100)
    assert [path.name for path in files] == ["timed.engine", "timed.low.onnx"]
    ((*arguments,),) = gpu
    assert "--trt-opt-shapes" not in arguments  # shapes are fixed
    found = RUNTIME.open(files, (x,), V100)()
    assert isinstance(found, dict) and torch.equal(found["output"], 2 * x)
    assert RUNTIME.version(V100).startswith("tensorrt 10.4.0 Tesla V100-SXM2-16GB cuda ")


def test_the_emitted_engine_is_timed_too(
    double: Path, gpu: list[list[str]], tmp_path: Path
) -> None:
    files = BACKEND.convert(double, tmp_path, V100)
    run = RUNTIME.open(files, (torch.ones(128, 3),), V100)
    assert isinstance(run(), dict)


def test_an_engine_that_cannot_be_loaded(
    double: Path,
    gpu: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: FakeRunner) -> None:
        raise RuntimeError("Could not deserialize engine.\nSee log")

    files = BACKEND.convert(double, tmp_path, V100)
    monkeypatch.setattr(FakeRunner, "activate", fail)
    with pytest.raises(BackendError) as caught:
        BACKEND.load(files, V100)
    assert str(caught.value) == (
        "TensorRT cannot load student.engine: Could not deserialize engine"
    )
