from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.errors import TargetError
from lanac.targets import Target, devices, parse_target


def all_targets() -> st.SearchStrategy[Target]:
    made = [
        (name, runtime, precision)
        for name, device in devices().items()
        for runtime, precisions in device["runtimes"].items()
        for precision in precisions
    ]
    counts = st.integers(1, 4096)
    return st.builds(lambda m, b, t: Target(*m, b, t), st.sampled_from(made), counts, counts)


@given(all_targets())
def test_the_text_parses_back(target: Target) -> None:
    assert parse_target(str(target)) == target


@given(all_targets())
def test_the_short_name_parses_back_too_and_names_a_folder(target: Target) -> None:
    assert parse_target(target.short.replace("-", ":")) == target
    assert "/" not in target.short and ":" not in target.short


@pytest.mark.parametrize(
    ("text", "target", "short"),
    [
        ("cpu", Target("cpu", "onnxruntime", "fp32", 1, 1), "cpu"),
        (" CPU:B8 ", Target("cpu", "onnxruntime", "fp32", 8, 1), "cpu-b8"),
        ("cpu:t2:onnxruntime:b4", Target("cpu", "onnxruntime", "fp32", 4, 2), "cpu-b4-t2"),
        ("cpu:fp32:b1", Target("cpu", "onnxruntime", "fp32", 1, 1), "cpu"),
    ],
)
def test_parts_in_any_order_and_defaults(text: str, target: Target, short: str) -> None:
    assert parse_target(text) == target
    assert target.short == short


KNOWN_PARTS = "Known: bN (batch), bf16, fp16, fp32, int8, onnxruntime, tN (threads)."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown device ''. Known: cpu."),
        ("cpus:b8", "unknown device 'cpus'. Did you mean 'cpu'? Known: cpu."),
        (
            "cpu:onnxruntim",
            f"unknown part 'onnxruntim'. Did you mean 'onnxruntime'? {KNOWN_PARTS}",
        ),
        ("cpu:", f"unknown part ''. {KNOWN_PARTS}"),
        ("cpu:b-1", None),
        ("cpu:b1.5", None),
        ("cpu:b0", "the batch must be at least 1, got 'b0'"),
        ("cpu:t0", "the number of threads must be at least 1, got 't0'"),
        ("cpu:fp16", "onnxruntime on cpu computes in fp32, not in fp16"),
    ],
)
def test_what_is_no_target(text: str, message: str | None) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    got = str(caught.value)
    if message is None:
        assert got.startswith(f"target {text!r}: unknown part {text[4:]!r}.")
        assert got.endswith(KNOWN_PARTS)
    else:
        assert got == f"target {text!r}: {message}"


@pytest.mark.parametrize("name", sorted(devices()))
def test_every_device_is_complete(name: str) -> None:
    device = devices()[name]
    assert device["title"]
    assert device["batch"] >= 1 and device["threads"] >= 1
    assert str(parse_target(name)).startswith(f"{name}:")
