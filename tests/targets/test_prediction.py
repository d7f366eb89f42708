"""Predicted latencies: how they behave, what their intervals say, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lanac.errors import PredictionError
from lanac.ir import TensorSpec
from lanac.targets import devices, parse_target
from lanac.targets.predicted import Anchor, calibrate, predict, ratio_spread, way_of
from lanac.targets.predicted.model import shares, whole_ms
from lanac.targets.predicted.ways import fitted
from lanac.targets.predicted.work import CLASSES, MULTIPLYING


def net(width=64, blocks=2, kernel=3):
    layers = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for _ in range(blocks):
        layers += [
            nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers).eval()


def predicted(module, target="rtx3090", size=32):
    return predict(module, [TensorSpec((1, 3, size, size), torch.float32)], parse_target(target))


PREDICTABLE = [
    f"{name}:{runtime}"
    for name, device in devices().items()
    if device.figures
    for runtime in device.runtimes
]


class TestLatency:
    @pytest.mark.parametrize("target", PREDICTABLE)
    def test_every_device_with_figures_has_one(self, target):
        found = predicted(net(16), target)
        assert 0 < found.low_ms < found.latency_ms < found.high_ms < math.inf

    @pytest.mark.parametrize("target", ["v100", "rtx4090:inductor:b64", "i7_12700h:onnxruntime"])
    def test_more_work_takes_longer(self, target):
        latency = predicted(net(), target).latency_ms
        assert predicted(net(width=128), target).latency_ms > latency
        assert predicted(net(blocks=4), target).latency_ms > latency
        assert predicted(net(kernel=5), target).latency_ms > latency
        assert predicted(net(), target, size=48).latency_ms > latency

    def test_a_larger_batch_takes_longer_and_less_for_each(self):
        one, many = (predicted(net(), f"v100:b{batch}").latency_ms for batch in (8, 64))
        assert one < many < 8 * one

    def test_a_faster_device_is_faster(self):
        times = [
            predicted(net(), f"{name}:pytorch:b256").latency_ms
            for name in ("rtx5090", "rtx4090", "rtx3090", "t4")
        ]
        assert times == sorted(times)

    def test_fusing_runtimes_are_faster(self):
        eager, engine = (
            predicted(net(), f"rtx3090:{name}:b256") for name in ("pytorch", "tensorrt")
        )
        assert engine.latency_ms < eager.latency_ms
        assert engine.kernels < eager.kernels

    def test_channels_that_tensor_cores_cannot_load_together_are_slower(self):
        target = "rtx3090:pytorch:fp16:b128"
        assert predicted(net(252), target).latency_ms > predicted(net(256), target).latency_ms
        single = "v100:pytorch:fp32:b128"  # not on tensor cores
        assert predicted(net(252), single).latency_ms < predicted(net(256), single).latency_ms

    def test_half_precision_is_faster(self):
        assert (
            predicted(net(), "v100:tensorrt:fp16").latency_ms
            < predicted(net(), "v100:tensorrt:fp32").latency_ms
        )

    def test_the_classes_sum_to_the_whole(self):
        found = predicted(net())
        assert sum(found.cost.by_class.values()) == pytest.approx(found.latency_ms)
        assert {"stem", "conv3x3"} <= found.cost.by_class.keys()

    def test_other_fits_say_something_near(self):
        found = predicted(net())
        members = found.cost.by_member
        assert len(members) == 16
        assert np.std(members) > 0
        assert np.median(members) == pytest.approx(found.latency_ms, rel=0.25)

    def test_at_batch_one_the_host_counts(self):
        found = predicted(net(4, blocks=20), "rtx4090:pytorch:b1", size=8)
        assert found.cost.by_class["host"] > 0.5 * found.latency_ms

    @given(st.floats(0.001, 1e4), st.integers(1, 2000))
    def test_shares_sum_to_the_whole(self, device_ms, kernels):
        constants = {"launch_us": 8.0}
        per_ms, per_kernel = shares(device_ms, kernels, constants)
        whole = whole_ms(device_ms, kernels, constants)
        assert per_ms * device_ms + per_kernel * kernels == pytest.approx(whole)

    def test_the_module_stays_as_it_is(self):
        module = net().train()
        before = module.state_dict()["2.running_mean"].clone()
        predicted(module.eval())
        assert torch.equal(module.state_dict()["2.running_mean"], before)


class TestInterval:
    def test_the_interval_is_that_of_the_spread(self):
        found = predicted(net())
        assert found.high_ms / found.latency_ms == pytest.approx(1 + found.relative_error)
        assert found.latency_ms / found.low_ms == pytest.approx(1 + found.relative_error)

    @pytest.mark.parametrize(
        ("known", "unknown"),
        [
            ("rtx3090:pytorch:b256", "h100:pytorch:b256"),
            ("i7_12700h:inductor:t14", "i7_12700h:inductor:t1"),
            ("i7_12700h:inductor:t14", "i7_12700h:openvino:t14"),
            ("rtx3090:pytorch:fp16:b256", "rtx3090:pytorch:bf16:b256"),
        ],
    )
    def test_less_evidence_widens_it(self, known, unknown):
        assert predicted(net(16), known).spread < predicted(net(16), unknown).spread

    def test_what_it_rests_on_is_said(self):
        said = predicted(net(16), "h100:pytorch:bf16:b256").evidence
        assert "NVIDIA H100 SXM5 80 GB is not among the devices of the fit" in said
        assert "no measurement in bf16 is behind it" in said

    def test_it_says_that_it_is_predicted(self):
        assert str(predicted(net(16))).startswith("predicted ")

    def test_alike_networks_have_the_more_certain_ratio(self):
        errors = way_of(parse_target("rtx3090:pytorch:b256")).errors
        one, alike, other = (
            predicted(module, "rtx3090:pytorch:b256")
            for module in (net(), net(blocks=3), nn.Sequential(*[nn.ReLU() for _ in range(9)]))
        )
        assert 0 < ratio_spread(one, alike, errors) < ratio_spread(one, other, errors)
        assert ratio_spread(one, one, errors) == pytest.approx(0.0, abs=1e-6)


class TestAnchors:
    TARGET = "v100:pytorch:b128"

    @pytest.fixture
    def errors(self):
        return way_of(parse_target(self.TARGET)).errors

    def test_an_anchor_is_given_its_own_measurement(self, errors):
        found = predicted(net(), self.TARGET)
        anchor = Anchor("net", found, 1.5 * found.latency_ms)
        brought = calibrate([anchor], errors).apply(found)
        assert brought.latency_ms == pytest.approx(1.5 * found.latency_ms, rel=0.05)
        assert brought.spread < 0.5 * found.spread
        assert brought.anchors == ("net",)

    def test_others_follow_and_their_interval_narrows(self, errors):
        one, other = predicted(net(), self.TARGET), predicted(net(width=96), self.TARGET)
        brought = calibrate([Anchor("net", one, 1.5 * one.latency_ms)], errors).apply(other)
        assert 1.2 * other.latency_ms < brought.latency_ms < 1.5 * other.latency_ms
        assert brought.spread < other.spread
        assert sum(brought.cost.by_class.values()) == pytest.approx(brought.latency_ms)

    def test_several_tell_classes_apart(self, errors):
        dense = predicted(net(width=256), self.TARGET)
        plain = predicted(nn.Sequential(*[nn.ReLU() for _ in range(20)]), self.TARGET)
        anchors = [
            Anchor("dense", dense, 1.6 * dense.latency_ms),
            Anchor("plain", plain, 0.7 * plain.latency_ms),
        ]
        factors = calibrate(anchors, errors).factors
        assert factors["conv3x3"] > 1.05 * factors["pointwise"]

    def test_a_right_prediction_stays(self, errors):
        found = predicted(net(), self.TARGET)
        calibration = calibrate([Anchor("net", found, found.latency_ms)], errors)
        assert calibration.apply(found).latency_ms == pytest.approx(found.latency_ms)
        assert set(calibration.factors.values()) == {1.0}

    def test_none(self, errors):
        with pytest.raises(PredictionError) as caught:
            calibrate([], errors)
        assert str(caught.value) == "no anchors are given; one measured network is the least"

    def test_seconds_instead_of_milliseconds(self, errors):
        found = replace(predicted(net(), self.TARGET), latency_ms=12.0)
        with pytest.raises(PredictionError) as caught:
            calibrate([Anchor("net", found, 0.012)], errors)
        assert str(caught.value) == (
            "anchor net: measured 0.012 ms, predicted 12 ms on v100:pytorch:fp16:b128:t1. They are "
            "more than 30 times apart: check the unit, which is milliseconds for the whole batch, "
            "and the target's batch, 128"
        )


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (
                "cpu",
                "target 'cpu:onnxruntime:fp32:b1:t1': cpu stands for this machine's CPU, of which "
                "no figures are known, so its latency can only be measured there; name the device, "
                "such as i7_12700h",
            ),
            (
                "cuda:pytorch",
                "target 'cuda:pytorch:fp16:b32:t1': cuda stands for this machine's first CUDA "
                "device, of which no figures are known, so its latency can only be measured there; "
                "name the device, such as rtx3090",
            ),
        ],
    )
    def test_a_device_without_figures(self, target, message):
        with pytest.raises(PredictionError) as caught:
            predicted(net(16), target)
        assert str(caught.value) == message


class TestFittedConstants:
    def test_what_they_were_fitted_on_is_written(self):
        record = fitted()
        assert record["made_by"] == "benchmarks/fit_latency.py"
        assert len(record["data"]["sha256"]) == 64
        assert record["networks"] > 0

    @pytest.mark.parametrize("way", ["gpu-eager", "gpu-inductor", "gpu-tensorrt", "cpu-inductor"])
    def test_they_are_physical(self, way):
        constants = fitted()["ways"][way]["constants"]
        assert all(value > 0 for value in constants.values())
        for kind in CLASSES:
            assert 0.02 < constants[f"b.{kind}"] < 4, kind
        for kind in MULTIPLYING:
            assert 0.02 < constants[f"e.{kind}"] < 4, kind  # before saturation, and capped

    def test_errors_are_there_for_every_class_and_batch(self):
        for way in fitted()["ways"].values():
            assert set(CLASSES) <= way["class_errors"].keys()
            assert {"small", "medium", "large", "device"} == way["errors"].keys()

    def test_other_fits_are_there_for_every_constant(self):
        for name, way in fitted()["ways"].items():
            assert way["members"].keys() == way["constants"].keys(), name
            assert {len(values) for values in way["members"].values()} == {16}, name
            assert all(value > 0 for values in way["members"].values() for value in values), name
