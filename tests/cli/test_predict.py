"""`lanac predict`: latencies that nobody can mistake for measurements."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import lanac as library


@pytest.fixture
def predict(lanac):
    """Runs `lanac predict`."""
    return lambda *arguments: lanac("predict", *arguments, small=False)


def assert_refused(outcome, message):
    assert (outcome.status, outcome.out, outcome.err) == (1, "", f"lanac: {message}\n")


class TestTable:
    def test_says_predicted_and_what_it_rests_on(self, predict, tiny):
        outcome = predict(tiny, "--target", "v100")
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("PREDICTED, not measured: v100:tensorrt:fp16:b128:t1\n")
        assert "90 % interval" in outcome.out
        assert "rests on: constants of PyTorch" in outcome.out
        assert "no network was run" in outcome.out

    def test_ratios_of_several(self, predict, tiny):
        outcome = predict("timm:resnet18", "timm:resnet34", "--target", "rtx3090:pytorch:b256")
        lines = outcome.out.splitlines()
        assert "predicted 1." in next(line for line in lines if line.startswith("timm:resnet34"))
        assert "+-" in outcome.out


class TestJson:
    def test_schema(self, predict, tiny):
        outcome = predict(tiny, "--target", "v100", "--json")
        found = json.loads(outcome.out)
        assert (found["schema"], found["how"], found["coverage"]) == (1, "predicted", 0.9)
        assert found["target"] == "v100:tensorrt:fp16:b128:t1"
        (network,) = found["networks"]
        assert network["how"] == "predicted"
        assert 0 < network["low_ms"] < network["latency_ms"] < network["high_ms"]
        assert sum(network["latency_ms_by_class"].values()) == pytest.approx(
            network["latency_ms"], rel=1e-4
        )

    def test_anchors_bring_it_to_their_scale(self, predict, tiny):
        target = ("--target", "v100:pytorch", "--json")
        plain = json.loads(predict(tiny, *target).out)["networks"][0]
        measured = 2 * plain["latency_ms"]
        found = json.loads(predict(tiny, *target, "--anchor", f"{tiny}={measured}ms").out)
        assert found["anchors_ms"] == {str(tiny): pytest.approx(measured)}
        network = found["networks"][0]
        assert network["latency_ms"] == pytest.approx(measured, rel=0.05)
        assert network["high_ms"] / network["low_ms"] < plain["high_ms"] / plain["low_ms"]


class TestRefusals:
    def test_unknown_device(self, predict, tiny):
        outcome = predict(tiny, "--target", "v10")
        assert outcome.status == 1
        assert outcome.err.startswith(
            "lanac: target 'v10': unknown device 'v10'. Did you mean 'v100'"
        )

    def test_a_device_that_is_only_a_word_for_this_machine(self, predict, tiny):
        assert_refused(
            predict(tiny, "--target", "cpu"),
            "target 'cpu:onnxruntime:fp32:b1:t1': cpu stands for this machine's CPU, of which no "
            "figures are known, so its latency can only be measured there; name the device, such "
            "as i7_12700h",
        )

    @pytest.mark.parametrize("text", ["timm:resnet50", "=3ms", "timm:resnet50=-1", "a=0"])
    def test_malformed_anchor(self, predict, tiny, text):
        assert_refused(
            predict(tiny, "--target", "v100", "--anchor", text),
            f"--anchor {text!r} is malformed; expected a network and its latency on the target in "
            "milliseconds for the whole batch, such as timm:resnet50=12.3ms",
        )

    def test_no_such_file(self, predict, tmp_path):
        outcome = predict(tmp_path / "nope.py", "--target", "v100")
        assert outcome.status == 1
        assert "nope.py" in outcome.err


class TestLibrary:
    def test_predict(self):
        found = library.predict(
            nn.Linear(4, 4), example_inputs=torch.zeros(2, 4), target="v100:pytorch"
        )
        assert found.low_ms < found.latency_ms < found.high_ms

    def test_training_mode_comes_back(self):
        module = nn.BatchNorm1d(4).train()
        library.predict(module, example_inputs=torch.zeros(2, 4), target="v100:pytorch")
        assert module.training

    def test_no_inputs(self):
        with pytest.raises(library.LanacError) as caught:
            library.predict(nn.Linear(4, 4), target="v100")
        assert str(caught.value) == (
            "give example_inputs, such as torch.zeros(2, 3, 224, 224), or train_data"
        )
