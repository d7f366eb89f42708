"""PyTorch as a runtime: eager, compiled, on devices that are here and that are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.backends import eager, inductor
from lanac.backends.base import RUNTIMES
from lanac.errors import BackendError
from lanac.targets import parse_target

INPUTS = (torch.zeros(2, 3, 8, 8),)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).eval()


@pytest.mark.parametrize("text", ["cpu:pytorch", "cpu:pytorch:bf16", "cpu:b2", "cpu:openvino:b2"])
def test_a_network_is_written_and_run(text, tmp_path):
    target = parse_target(text)
    runtime = RUNTIMES.get(target.runtime)
    assert runtime.unavailable(target) is None
    files = runtime.write(network(), INPUTS, tmp_path, target)
    assert all(path.parent == tmp_path and path.exists() for path in files)
    run = runtime.open(files, INPUTS, target)
    run()
    run()


def test_eager_computes_in_the_targets_precision(tmp_path, monkeypatch):
    target = parse_target("cpu:pytorch:bf16")
    files = eager.RUNTIME.write(network(), INPUTS, tmp_path, target)
    seen = []
    call = nn.Conv2d.forward

    def watched(self, x):
        seen.append((x.dtype, self.weight.dtype))
        return call(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    eager.RUNTIME.open(files, INPUTS, target)()
    assert seen == [(torch.bfloat16, torch.bfloat16)]


def test_indices_keep_their_type(tmp_path):
    target, inputs = parse_target("cpu:pytorch:bf16"), (torch.zeros(2, 3, dtype=torch.int64),)
    files = eager.RUNTIME.write(nn.Embedding(5, 4).eval(), inputs, tmp_path, target)
    eager.RUNTIME.open(files, inputs, target)()


def test_a_call_on_a_gpu_ends_when_the_work_has_ended(tmp_path, monkeypatch):
    """There is none here: the processor takes its place."""
    waited = []
    monkeypatch.setattr(eager, "_place", lambda _: "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    target = parse_target("cuda:pytorch:fp32")
    files = eager.RUNTIME.write(network(), INPUTS, tmp_path, target)
    eager.RUNTIME.open(files, INPUTS, target)()
    assert waited == [1]
    assert not target.is_one_thread  # timed by the wall clock


@pytest.mark.parametrize("runtime", ["pytorch", "inductor"])
def test_devices_that_are_not_here(runtime, monkeypatch):
    target = parse_target(f"rtx3090:{runtime}")
    assert RUNTIMES.get(runtime).unavailable(target) == (
        "this machine has no CUDA device that torch can use"
    )
    monkeypatch.setattr("lanac.targets.device.cuda_device", lambda: "NVIDIA A10")
    assert RUNTIMES.get(runtime).unavailable(target) == (
        "this machine's first CUDA device is NVIDIA A10, no NVIDIA GeForce RTX 3090"
    )
    monkeypatch.setattr("lanac.targets.device.cuda_device", lambda: "NVIDIA GeForce RTX 3090")
    assert RUNTIMES.get(runtime).unavailable(target) is None
    monkeypatch.setattr(eager, "cuda_device", lambda: "NVIDIA GeForce RTX 3090")
    version = RUNTIMES.get(runtime).version(target)
    assert version.startswith(f"torch {torch.__version__} NVIDIA GeForce RTX 3090")


def test_a_cpu_that_is_not_here():
    assert RUNTIMES.get("onnxruntime").unavailable(parse_target("xeon_4114")) == (
        "this machine's processor is no Intel Xeon Silver 4114"
    )


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(inductor, "_compiler", lambda: None)
    assert inductor.RUNTIME.unavailable(parse_target("cpu:inductor")) == (
        "torch.compile needs a C++ compiler, and there is none (install g++, or set CXX)"
    )


def test_what_torch_compile_refuses(tmp_path, monkeypatch):
    target = parse_target("cpu:inductor")
    files = inductor.RUNTIME.write(network(), INPUTS, tmp_path, target)

    def refusing(model):
        def run(*_):
            raise RuntimeError("cannot lower this\nand many lines")

        return run

    monkeypatch.setattr(inductor, "_compiled", refusing)
    with pytest.raises(BackendError) as caught:
        inductor.RUNTIME.open(files, INPUTS, target)
    assert str(caught.value) == "torch.compile refuses the network: cannot lower this"


@pytest.mark.slow
def test_inductor_compiles_and_runs(tmp_path):
    target = parse_target("cpu:inductor")
    assert inductor.RUNTIME.unavailable(target) is None
    files = inductor.RUNTIME.write(network(), INPUTS, tmp_path, target)
    inductor.RUNTIME.open(files, INPUTS, target)()
