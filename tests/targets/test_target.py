from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lanac.targets.device
from lanac.errors import TargetError
from lanac.targets import Target, devices, get_device, parse_target
from lanac.targets.device import HERE

RUNTIMES = {"onnxruntime", "openvino", "pytorch", "inductor", "tensorrt", "tensorrt_rtx"}


def all_targets() -> st.SearchStrategy[Target]:
    made = [
        (name, runtime, precision)
        for name, device in devices().items()
        for runtime, precisions in device.runtimes.items()
        for precision in precisions
    ]
    counts = st.integers(1, 4096)

    def build(
        made: tuple[str, str, str], batch: int, threads: int, version: tuple[int, int] | None
    ) -> Target:
        threads = threads if devices()[made[0]].kind == "cpu" else 1
        return Target(*made, batch, threads, version if made[1] == "tensorrt" else None)

    versions = st.none() | st.tuples(st.just(10), st.integers(0, 4))
    return st.builds(build, st.sampled_from(made), counts, counts, versions)


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
        ("cpu:openvino:bf16", Target("cpu", "openvino", "bf16", 1, 1), "cpu-openvino-bf16"),
        ("v100", Target("v100", "tensorrt", "fp16", 128, 1), "v100"),
        ("v100:tensorrt:fp16:b128", Target("v100", "tensorrt", "fp16", 128, 1), "v100"),
        ("rtx3090:pytorch", Target("rtx3090", "pytorch", "fp16", 32, 1), "rtx3090-pytorch"),
        ("a100", Target("a100", "tensorrt", "fp16", 128, 1), "a100"),
        ("cuda", Target("cuda", "pytorch", "fp16", 32, 1), "cuda"),
        (
            "v100:tensorrt10.3",
            Target("v100", "tensorrt", "fp16", 128, 1, (10, 3)),
            "v100-tensorrt10.3",
        ),
        (
            "a100:b1:tensorrt11",
            Target("a100", "tensorrt", "fp16", 1, 1, (11, 0)),
            "a100-tensorrt11.0-b1",
        ),
    ],
)
def test_parts_in_any_order_and_defaults(text: str, target: Target, short: str) -> None:
    assert parse_target(text) == target
    assert target.short == short


KNOWN_PARTS = (
    "Known: bN (batch), bf16, fp16, fp32, inductor, int8, onnxruntime, openvino, pytorch, "
    "tN (threads)."
)
DEVICES = (
    f"Known: {', '.join(sorted(devices()))}. A device is an entry of lanac/targets/devices.toml; "
    "'cpu' and 'cuda' stand for what this machine has"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"unknown device ''. {DEVICES}"),
        ("cpus:b8", f"unknown device 'cpus'. Did you mean 'cpu' or 'cuda'? {DEVICES}"),
        ("v10", f"unknown device 'v10'. Did you mean 'v100' or 'a10' or 'h100'? {DEVICES}"),
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
        ("v100:bf16", "tensorrt on v100 computes in fp16, fp32, not in bf16"),
        (
            "h100:tensorrt_rtx",
            "tensorrt_rtx does not run on h100 (NVIDIA H100 SXM5 80 GB); what does: tensorrt, "
            "pytorch, inductor",
        ),
        (
            "v100:tensorrt11",
            "TensorRT 11.0 does not support NVIDIA V100 SXM2 16 GB; the last one that does is "
            "10.4, and without a number that is taken",
        ),
        ("v100:t4", "threads are for CPUs, v100 is a GPU; leave 't4' out"),
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
    assert device.title
    assert device.kind in ("cpu", "gpu")
    assert device.batch >= 1 and device.threads >= 1
    assert str(parse_target(name)).startswith(f"{name}:")
    assert set(device.runtimes) <= RUNTIMES and all(device.runtimes.values())
    if name in HERE:
        return
    assert device.matches
    figures = {"fp32_tflops", "bandwidth_gbps", "l2_mb", "units"}
    if device.kind == "gpu":
        figures |= {"fp16_tflops"}
        assert device.capability is not None
    assert figures <= set(device.figures)
    assert all(figure.value > 0 and figure.source for figure in device.figures.values())


def test_a_processor_is_here_where_its_name_is(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Intel(R) Xeon(R) Silver 4114 CPU @ 2.20GHz"
    monkeypatch.setattr(lanac.targets.device, "processor", lambda: name)
    assert get_device("cpu").is_here() and get_device("xeon_4114").is_here()
    assert not get_device("i7_12700h").is_here()


def test_a_gpu_is_here_where_cuda_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanac.targets.device, "cuda_device", lambda: "Tesla V100-SXM2-16GB")
    assert get_device("v100").is_here() and get_device("cuda").is_here()
    assert not get_device("t4").is_here()
    monkeypatch.setattr(lanac.targets.device, "cuda_device", lambda: None)
    assert not get_device("v100").is_here() and not get_device("cuda").is_here()
