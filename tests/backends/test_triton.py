"""The Triton model repository: its configuration is read back, the model inside is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends import triton
from lanac.backends.onnx_files import Signature, Value, read_signature
from lanac.backends.triton import BACKEND, model_config
from lanac.targets import parse_target


def read_config(text: str) -> dict[str, list[Any]]:
    """Protobuf's text form: every field as a list of its values."""
    tokens = iter(re.findall(r'"[^"]*"|[\w.-]+|[\[\]{}:,]', text))

    def message(end: str | None) -> dict[str, list[Any]]:
        fields: dict[str, list[Any]] = {}
        for name in tokens:
            if name == end:
                break
            fields.setdefault(name, []).extend(values(next(tokens)))
        return fields

    def values(token: str) -> Iterator[Any]:
        if token == ":":
            token = next(tokens)
        if token == "[":
            for item in tokens:
                if item == "]":
                    return
                if item != ",":
                    yield from values(item)
        elif token == "{":
            yield message("}")
        elif token.lstrip("-").isdigit():
            yield int(token)
        else:
            yield token.strip('"')

    return message(None)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, Tensor | list[Tensor]]:
        hidden = image + self.embed(tokens)
        return {"hidden": hidden, "parts": [hidden.sum((1, 2)), tokens]}


def test_the_repository_holds_what_the_server_needs(tmp_path: Path) -> None:
    target = parse_target("cpu:b4")
    module = fx.symbolic_trace(Nested()).eval()
    image, tokens = torch.randn(3, 5, 3), torch.randint(4, (3, 5))
    assert BACKEND.unavailable(target) is None
    files = BACKEND.emit(module, tmp_path, (image, tokens), target)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "triton/student/config.pbtxt",
        "triton/student/1/model.onnx",
    ]
    config = read_config(files[0].read_text())
    assert config == {
        "name": ["student"],
        "platform": ["onnxruntime_onnx"],
        "max_batch_size": [8],
        "input": [
            {"name": ["image"], "data_type": ["TYPE_FP32"], "dims": [5, 3]},
            {"name": ["tokens"], "data_type": ["TYPE_INT64"], "dims": [5]},
        ],
        "output": [
            {"name": ["hidden"], "data_type": ["TYPE_FP32"], "dims": [5, 3]},
            {
                "name": ["parts.0"],
                "data_type": ["TYPE_FP32"],
                "dims": [1],
                "reshape": [{"shape": []}],
            },
            {"name": ["parts.1"], "data_type": ["TYPE_INT64"], "dims": [5]},
        ],
        "instance_group": [{"count": [1], "kind": ["KIND_CPU"]}],
        "dynamic_batching": [{"preferred_batch_size": [4], "max_queue_delay_microseconds": [100]}],
    }
    # What it says of the model is what the model says.
    signature = read_signature(files[1])
    for field, own in (("input", signature.inputs), ("output", signature.outputs)):
        assert [entry["name"] for entry in config[field]] == [[value.name] for value in own]
    hidden, total, same = BACKEND.load(files, target)(image, tokens)
    with torch.no_grad():
        want = module(image, tokens)
    torch.testing.assert_close(hidden, want["hidden"])
    torch.testing.assert_close(total, want["parts"][0])
    assert torch.equal(same, tokens)
    (note,) = BACKEND.notes(files, target)
    assert note == (
        "triton/ is for tritonserver --model-repository; the model inside was compared, the server "
        "was not run"
    )


def test_for_a_gpu_it_is_fp16_where_the_target_is(tmp_path: Path) -> None:
    target = parse_target("v100")
    assert BACKEND.precision(target) == "fp16"
    assert BACKEND.precision(parse_target("a100:bf16")) == "fp32"
    assert BACKEND.precision(parse_target("cpu:openvino:bf16")) == "fp32"
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3))).eval()
    files = BACKEND.emit(module, tmp_path, (torch.randn(2, 4),), target)
    config = read_config(files[0].read_text())
    assert config["max_batch_size"] == [128]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_GPU"]}]
    assert config["input"][0]["data_type"] == ["TYPE_FP32"]  # the border stays fp32
    (got,) = BACKEND.load(files, target)(torch.ones(2, 4))
    with torch.no_grad():
        assert 0 < (got - module(torch.ones(2, 4))).abs().max() < 1e-2


def test_where_tensorrt_can_build_the_server_gets_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(model: Path, engine: Path, target: object) -> Path:
        engine.write_bytes(b"engine")
        return engine.with_name("timing.cache")

    monkeypatch.setattr(triton, "_has_engine", lambda target: True)
    monkeypatch.setattr(triton, "build_here", build)
    monkeypatch.setattr(triton, "run_engine", lambda path, signature, library, most: most)
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3))).eval()
    target = parse_target("a100:bf16")
    files = BACKEND.emit(module, tmp_path, (torch.randn(2, 4),), target)
    assert [path.name for path in files] == ["config.pbtxt", "model.plan", "model.onnx"]
    assert read_config(files[0].read_text())["platform"] == ["tensorrt_plan"]
    assert BACKEND.precision(target) == "bf16"
    loaded: Any = BACKEND.load(files, target)
    assert loaded == 128


def test_what_has_no_batch_is_not_batched() -> None:
    signature = Signature(
        (Value("x", "float32", (None, 3)), Value("scale", "float16", (3,))),
        (Value("y", "bool", (None, 3)),),
    )
    config = read_config(model_config(signature, parse_target("cpu"), "onnxruntime_onnx"))
    assert config["max_batch_size"] == [0]
    assert "dynamic_batching" not in config
    assert [entry["dims"] for entry in config["input"]] == [[-1, 3], [3]]
    assert [entry["data_type"] for entry in (*config["input"], *config["output"])] == [
        ["TYPE_FP32"],
        ["TYPE_FP16"],
        ["TYPE_BOOL"],
    ]
