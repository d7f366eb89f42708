"""Ways of running: which rules, constants and figures hold for a target, and what they rest on.

The constants and their errors are data, `fitted.json`, made by `benchmarks/fit_latency.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from lanac.errors import PredictionError
from lanac.targets.device import Device
from lanac.targets.predicted.fusion import RULES
from lanac.targets.predicted.kernels import KernelList
from lanac.targets.predicted.model import Constants, Figures, Members
from lanac.targets.predicted.precision import with_precision
from lanac.targets.target import Target

FORMAT = 1
_RULE = {
    ("gpu", "pytorch"): "eager",
    ("gpu", "inductor"): "inductor",
    ("gpu", "tensorrt"): "tensorrt",
    ("gpu", "tensorrt_rtx"): "tensorrt",
    ("cpu", "pytorch"): "eager",
    ("cpu", "inductor"): "inductor",
    ("cpu", "onnxruntime"): "onnxruntime",
    ("cpu", "openvino"): "openvino",
}
_FUSES_SWISH_FROM = (8, 0)
_REGIMES = ((8, "small"), (63, "medium"))
"""Batches up to a size, and what errors are known by; above is `large`."""

_SUSTAINED_SHARE = 0.8
"""Of a nominal peak, where no measured one is known: V100 and T4 reach 0.76 and 0.61. Consumer cards
clock above what their nominal peak is computed with, and reach it."""

_BF16_GAIN = 1.5
"""What bf16 brings on a CPU over fp32 (OpenVINO: 1.46 and 1.9 on two networks)."""

_WINOGRAD = 1.8
"""cuDNN and TensorRT compute 3x3 convolutions in fp32 off the tensor cores by Winograd's method, with
2.25 times fewer multiplications and some more additions."""

_SHARED_LANES = ((8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0))
"""Architectures whose nominal fp32 peak counts lanes that do either fp32 or integers. Kernels off the
tensor cores compute as many addresses as values, and get about half of it."""

_THREAD_BANDWIDTH = 0.25
"""Share of a CPU's bandwidth that one thread can use."""


@dataclass(frozen=True)
class Way:
    """How a target runs networks, as far as the model knows it.

    Attributes:
        name: of the constants, such as `gpu-eager`.
        rule: of fusion.
        constants: fitted.
        members: fitted on halves of the families each; alike where the data decide.
        figures: the device's.
        spread: standard deviation of the logarithm of measured over predicted latency.
        ratio_spread: the same for ratios between alike networks on one device.
        evidence: a sentence on what the prediction rests on.
        errors: standard deviations of the errors that kernels of a class share, for perturbing.
    """

    name: str
    rule: str
    constants: Constants
    members: Members
    figures: Figures
    spread: float
    ratio_spread: float
    evidence: str
    errors: Mapping[str, float]

    def run(self, listed: KernelList, precision: str) -> KernelList:
        """The kernels as they run this way."""
        cast = with_precision(listed, precision)
        rule: Callable[[KernelList], KernelList] = RULES[self.rule]
        return rule(cast)


@cache
def fitted() -> dict[str, Any]:
    """What `benchmarks/fit_latency.py` found.

    Raises:
        PredictionError: the file is of another format.
    """
    text = files("lanac.targets.predicted").joinpath("fitted.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    if loaded.get("format") != FORMAT:
        raise PredictionError(
            f"lanac/targets/predicted/fitted.json has format {loaded.get('format')!r}, expected "
            f"{FORMAT}: make it again with benchmarks/fit_latency.py"
        )
    return loaded


def regime(batch: int) -> str:
    """`small` up to 8 samples, `medium` below 64, `large`."""
    return next((name for largest, name in _REGIMES if batch <= largest), "large")


def way_of(target: Target) -> Way:
    """The way of running that a target means.

    Raises:
        PredictionError: nothing is known of the device, or no rules exist for its runtime.
    """
    device = target.entry
    if not device.figures:
        raise PredictionError(
            f"target {str(target)!r}: {device.name} stands for {device.title}, of which no figures "
            "are known, so its latency can only be measured there; name the device, such as "
            f"{'rtx3090' if device.kind == 'gpu' else 'i7_12700h'}"
        )
    rule = _RULE.get((device.kind, target.runtime))
    if rule is None:
        raise PredictionError(
            f"target {str(target)!r}: no prediction for {target.runtime} on a "
            f"{device.kind.upper()}; there is one for "
            f"{', '.join(runtime for kind, runtime in _RULE if kind == device.kind)}"
        )
    name = f"{device.kind}-{rule}"
    if rule == "tensorrt" and (device.capability or _FUSES_SWISH_FROM) < _FUSES_SWISH_FROM:
        rule = "tensorrt_volta"
    entry = fitted()["ways"][name]
    spread, ratio_spread, evidence = _evidence(entry, device, target)
    return Way(
        name, rule, entry["constants"], as_members(entry["members"]),
        figures_of(device, target.precision, target.threads), spread, ratio_spread, evidence,
        entry["class_errors"],
    )  # fmt: skip


def as_members(listed: Mapping[str, Sequence[float]]) -> Members:
    """Several sets of constants as arrays, from lists by name."""
    return {name: np.array(values)[:, None] for name, values in listed.items()}


def figures_of(device: Device, precision: str, threads: int = 1) -> Figures:
    """The figures of a device in a precision.

    Args:
        device: with peaks and bandwidth.
        precision: fp32, fp16, bf16, int8, or amp, which computes products in fp16.
        threads: of a CPU.

    Raises:
        PredictionError: a figure is missing.
    """
    for needed in ("fp32_tflops", "bandwidth_gbps", "l2_mb", "units"):
        if needed not in device.figures:
            raise PredictionError(
                f"device {device.name!r} has no figure {needed!r} in lanac/targets/devices.toml, "
                "and latency cannot be predicted without"
            )
    value = {name: figure.value for name, figure in device.figures.items()}
    if device.kind == "cpu":
        share = min(1.0, threads / value["units"])
        peak = value["fp32_tflops"] * share
        bandwidth = value["bandwidth_gbps"] * min(1.0, threads * _THREAD_BANDWIDTH)
        gain = 1.0 if precision == "fp32" else _BF16_GAIN
        return Figures(bandwidth, peak * gain, peak, value["l2_mb"], min(threads, value["units"]))
    plain = sustained(device, "fp32_tflops")
    half = sustained(device, "fp16_tflops")
    tf32 = half / 2 if device.capability is not None and device.capability >= (8, 0) else 0.0
    dense = max(plain, tf32) if precision == "fp32" else half * (2 if precision == "int8" else 1)
    lanes = plain / 2 if device.capability in _SHARED_LANES else plain
    narrow = precision != "fp32"
    winograd = _WINOGRAD if not narrow and dense == plain else 1.0
    return Figures(
        value["bandwidth_gbps"], dense, lanes, value["l2_mb"], value["units"], narrow, winograd
    )


def sustained(device: Device, figure: str) -> float:
    """A peak as large matrix products reach it: measured, or a usual share of the nominal one."""
    known = device.figures.get(f"sustained_{figure}")
    if known is not None:
        return known.value
    if figure not in device.figures:
        return sustained(device, "fp32_tflops")
    return device.figures[figure].value * (1.0 if "GeForce" in device.title else _SUSTAINED_SHARE)


def _evidence(entry: Mapping[str, Any], device: Device, target: Target) -> tuple[float, float, str]:
    """Spread of latencies and of ratios, and what they rest on."""
    size = regime(target.batch)
    errors: Mapping[str, float] = entry["errors"][size]
    extra: list[float] = []
    said = [f"constants of {entry['fitted_on']}"]
    if device.name in entry["devices"]:
        said.append(f"error of networks of other families at {size} batches")
    else:
        extra.append(entry["errors"]["device"])
        said.append(f"{device.title} is not among the devices of the fit")
    for what, key in _unseen(entry, device, target):
        extra.append(fitted()["unseen"][key])
        said.append(what)
    spread = math.sqrt(errors["spread"] ** 2 + sum(value**2 for value in extra))
    # A ratio shares what is wrong about the device; a quarter of it may differ from network to network.
    ratio = math.sqrt(errors["ratio"] ** 2 + sum((value / 4) ** 2 for value in extra))
    return spread, ratio, "; ".join(said)


def _unseen(entry: Mapping[str, Any], device: Device, target: Target) -> list[tuple[str, str]]:
    """What no measurement of the fit covers: the words, and the key of the error to add."""
    found = []
    if device.capability is not None and device.capability < _FUSES_SWISH_FROM:
        found.append(("the device is older than those of the fit", "generation"))
    if not entry["runtime_seen"]:
        found.append((f"no measurement of {target.runtime} is behind it", "runtime"))
    if target.precision not in entry["precisions"]:
        found.append((f"no measurement in {target.precision} is behind it", "precision"))
    if device.kind == "cpu" and target.threads < device.figures["units"].value:
        found.append((f"no measurement with {target.threads} thread(s) is behind it", "threads"))
    return found
