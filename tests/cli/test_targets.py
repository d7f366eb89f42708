"""`lanac targets`: what can be done here for each device, and why not the rest."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from lanac.abilities import abilities
from lanac.backends import _nvidia, tensorrt_rtx
from lanac.report.targets import show_targets
from lanac.targets import device, devices


@pytest.fixture
def run(lanac, monkeypatch):
    """The command on a machine without GPU and TensorRT, but with TensorRT-RTX."""
    monkeypatch.setattr(device, "cuda_device", lambda: None)
    monkeypatch.setattr(_nvidia, "cuda_device", lambda: None)
    monkeypatch.setattr(
        _nvidia, "library_version", lambda library: "1.7" if library == "tensorrt_rtx" else None
    )
    monkeypatch.setattr(tensorrt_rtx.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: lanac("targets", *arguments, small=False)


def rows(text):
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_every_device_has_a_line_and_every_lack_a_reason(run):
    outcome = run()
    assert outcome.status == 0, outcome.err
    table = rows(outcome.out.split("outputs for every device")[0])
    assert set(table) == {"device", *devices()}
    assert table["device"][-5:] == ["measured", "predicted", "openvino", "tensorrt", "tensorrt_rtx"]
    assert table["cpu"][-5:] == ["yes", "-", "yes", "-", "-"]
    assert table["v100"][-5:] == ["-", "yes", "-", "script", "-"]
    assert table["rtx3090"][-5:] == ["-", "yes", "-", "script", "yes"]
    assert table["h100"][-5:] == ["-", "yes", "-", "script", "-"]
    assert table["cuda"][-5:] == ["-", "-", "-", "-", "-"]
    text = " ".join(outcome.out.split())
    for line in (
        "outputs for every device: onnx, onnx_bf16, onnx_fp16, pytorch, triton",
        "this machine has no CUDA device that torch can use",
        "not measured onnxruntime, openvino, pytorch, inductor (xeon_4114): this machine's "
        "processor is no Intel Xeon Silver 4114",
        "not predicted onnxruntime, openvino, pytorch, inductor (cpu): cpu stands for this "
        "machine's CPU, of which no figures are known, so its latency can only be measured there; "
        "name the device, such as i7_12700h",
        "a build script for tensorrt (v100, titanv, t4 and 14 more): tensorrt is not installed (pip "
        "install tensorrt)",
        "lanac targets DEVICE shows one with its runtimes, precisions and figures",
    ):
        assert line in text


def test_it_fits_eighty_columns(run):
    text = io.StringIO()
    show_targets(Console(file=text, width=80), abilities())
    table = text.getvalue().split("outputs for every device")[0].splitlines()
    assert table[0].split()[-1] == "tensorrt_rtx"
    assert all(len(line) <= 80 for line in table)
    assert len([line for line in table if line.strip()]) == 1 + len(devices())


def test_one_device_with_figures_and_sources(run):
    outcome = run("v100")
    assert outcome.status == 0, outcome.err
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    for line in (
        "v100: NVIDIA V100 SXM2 16 GB",
        "compute capability 7.0, last TensorRT 10.4",
        "--target v100 is v100:tensorrt:fp16:b128:t1",
        "tensorrt fp16 fp32 yes tensorrt is not installed (pip install tensorrt)",
        "openvino no: OpenVINO runs on CPUs, and v100 is none",
        "tensorrt ONNX and a build script: tensorrt is not installed (pip install tensorrt)",
        "tensorrt_rtx no: TensorRT-RTX does not support NVIDIA V100 SXM2 16 GB (compute capability 7.0)",
        "triton yes",
        "bandwidth_gbps 900 NVIDIA's data sheet or architecture white paper of the device",
    ):
        assert line in lines


def test_a_whole_target_decides_the_precision(run):
    text = run("t4:fp32").out
    assert "--target t4 is t4:tensorrt:fp32:b32:t1" in text
    assert "no: TensorRT-RTX on t4 computes in fp16, not in fp32" in text


def test_json_says_the_same(run):
    record = json.loads(run("--json").out)
    assert record["schema"] == 1
    found = {entry["name"]: entry for entry in record["devices"]}
    assert list(found) == list(devices())
    v100 = found["v100"]
    assert (v100["capability"], v100["last_tensorrt"]) == ("7.0", "10.4")
    assert v100["runtimes"][0] == {
        "name": "tensorrt",
        "precisions": ["fp16", "fp32"],
        "measured_here": False,
        "not_measured": "tensorrt is not installed (pip install tensorrt)",
        "predicted": True,
        "not_predicted": None,
    }
    assert not found["cpu"]["runtimes"][0]["predicted"]
    outputs = {output["name"]: output for output in v100["outputs"]}
    assert outputs["tensorrt"]["written_here"] and not outputs["tensorrt"]["built_here"]
    assert not outputs["openvino"]["written_here"]
    assert outputs["onnx"] == {
        "name": "onnx",
        "written_here": True,
        "not_written": None,
        "built_here": True,
        "not_built": None,
    }
    assert v100["figures"]["units"] == {
        "value": 80.0,
        "source": "NVIDIA's data sheet or architecture white paper of the device",
    }
    (one,) = json.loads(run("rtx3090", "--json").out)["devices"]
    assert one["name"] == "rtx3090"


def test_an_unknown_device(run):
    outcome = run("v10")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(
        "lanac: target 'v10': unknown device 'v10'. Did you mean 'v100' or 'a10' or 'h100'? Known: "
    )


def test_a_gpu_that_is_here_is_measured(monkeypatch):
    monkeypatch.setattr(device, "cuda_device", lambda: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(_nvidia, "cuda_device", lambda: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(_nvidia, "library_version", lambda library: "10.4.0")
    v100, t4 = abilities(["v100", "t4"])
    assert {runtime.name for runtime in v100.runtimes if runtime.unmeasured is None} >= {
        "tensorrt",
        "pytorch",
    }
    (tensorrt,) = (output for output in v100.outputs if output.name == "tensorrt")
    assert (tensorrt.unwritten, tensorrt.unbuilt) == (None, None)
    reason = "this machine's first CUDA device is Tesla V100-SXM2-16GB, no NVIDIA T4"
    assert {runtime.unmeasured for runtime in t4.runtimes} == {reason}
