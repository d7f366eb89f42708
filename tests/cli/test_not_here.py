"""A whole compilation for a device that is not here: predicted, and said so everywhere."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def done(lanac, tiny):
    out = tiny.parent / "out"
    outcome = lanac(str(tiny), "--budget=0.6x", "--target=v100", f"--out={out}", "--pool=inherit")
    assert outcome.status == 0, outcome.err
    return outcome, out / "0.6x@v100"


def test_nobody_can_mistake_it_for_a_measurement(done):
    outcome, folder = done
    printed = " ".join(outcome.out.split())
    assert "(measured)" not in printed and "PREDICTED" in printed
    assert "as PREDICTED (" in printed and "), not measured" in printed
    assert "NO LATENCY WAS MEASURED: NVIDIA V100 SXM2 16 GB is not here." in printed
    page = (folder / "summary.md").read_text()
    assert "\n| latency (PREDICTED) | about " in page
    assert "NO LATENCY WAS MEASURED" in page and "(measured)" not in page

    record = json.loads((folder / "plan.json").read_text())
    latency = record["latency"]
    assert latency["how"] == record["cost_sources"]["latency_ms"] == "predicted"
    for name in ("latency", "teacher_latency"):
        found = latency[name]
        assert found["low_ms"] < found["latency_ms"] < found["high_ms"]
    assert latency["ratio"] <= 0.6
    assert latency["ratio_error"] > 0
    assert latency["budget_probability"] >= 0.7
    assert record["finalists"][0]["latency"] is None


def test_the_files_that_the_device_runs_are_there(done):
    _, folder = done
    names = {path.name for path in folder.iterdir()}
    assert {"student.py", "student.safetensors", "student.onnx", "build_engine.sh"} <= names
    script = (folder / "build_engine.sh").read_text()
    assert "tensorrt==10.4" in script  # the last that supports Volta


def test_an_anchor_that_is_malformed(lanac, tiny):
    outcome = lanac(str(tiny), "--target=v100", "--anchor=12ms")
    assert (outcome.status, outcome.err) == (
        1,
        "lanac: --anchor '12ms' is malformed; expected a network and its latency on the target in "
        "milliseconds for the whole batch, such as timm:resnet50=12.3ms\n",
    )
