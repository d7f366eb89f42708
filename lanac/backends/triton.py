"""A model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

from lanac.backends._engines import max_batch, run_engine
from lanac.backends.base import Runner
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.onnx_files import (
    Signature,
    Value,
    load_rounded,
    read_signature,
    write_in_precision,
)
from lanac.backends.tensorrt import BACKEND as TENSORRT
from lanac.backends.tensorrt import build_here
from lanac.targets import Target

REPOSITORY = "triton"
MODEL = "student"
CONFIG_NAME = "config.pbtxt"

_TYPES = {
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)},
    "bool": "TYPE_BOOL",
    "bfloat16": "TYPE_BF16",
}
_QUEUE_DELAY_US = 100
"""How long a request waits for others to fill its batch."""


class TritonBackend(FromOnnx):
    """Writes the folder `triton`, which the server takes as `--model-repository`."""

    name = "triton"

    def unavailable(self, target: Target) -> str | None:
        """Why it cannot be written here, or None where it can."""
        return ONNX.unavailable(target)

    def precision(self, target: Target) -> str:
        """fp16 on a GPU where the target says so; ONNX Runtime knows too little of bf16."""
        if _has_engine(target):
            return target.precision
        is_low = target.entry.kind == "gpu" and target.precision == "fp16"
        return "fp16" if is_low else "fp32"

    def convert(self, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
        """ONNX, and a TensorRT engine before it where one can be built here."""
        version = folder / REPOSITORY / MODEL / "1"
        version.mkdir(parents=True, exist_ok=True)
        made = write_in_precision(model, version, self.precision(target), "model.onnx")
        platform = "onnxruntime_onnx"
        if _has_engine(target):
            plan, platform = version / "model.plan", "tensorrt_plan"
            build_here(made[0], plan, target)
            made = (plan, *made)
        config = version.parent / CONFIG_NAME
        text = model_config(read_signature(version / "model.onnx"), target, platform)
        config.write_text(text, encoding="utf-8")
        return config, *made

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """The model inside."""
        if files[1].suffix == ".plan":
            signature = read_signature(files[2])
            return run_engine(files[1], signature, TENSORRT.name, max_batch(target.batch))
        return load_rounded(files[1], self.precision(target))

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """What the server was not asked."""
        return (
            f"{REPOSITORY}/ is for tritonserver --model-repository; the model inside was compared, "
            "the server was not run",
        )


def _has_engine(target: Target) -> bool:
    return TENSORRT.unavailable(target) is None and TENSORRT.unbuilt(target) is None


def model_config(signature: Signature, target: Target, platform: str) -> str:
    """The text of config.pbtxt (ModelConfig of Triton's model_config.proto, in text form).

    Requests are joined to batches where everything that the model takes and gives has one.

    Args:
        signature: of the model.
        target: its batch is preferred, its device decides where instances run.
        platform: `onnxruntime_onnx` or `tensorrt_plan`.
    """
    values = (*signature.inputs, *signature.outputs)
    is_batched = all(value.shape and value.shape[0] is None for value in values)
    kind = "KIND_CPU" if target.entry.kind == "cpu" else "KIND_GPU"
    lines = [
        f'name: "{MODEL}"',
        f'platform: "{platform}"',
        f"max_batch_size: {max_batch(target.batch) if is_batched else 0}",
        *_values("input", signature.inputs, is_batched),
        *_values("output", signature.outputs, is_batched),
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
    ]
    if is_batched:
        lines += [
            "dynamic_batching {",
            f"  preferred_batch_size: [ {target.batch} ]",
            f"  max_queue_delay_microseconds: {_QUEUE_DELAY_US}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _values(field: str, values: tuple[Value, ...], is_batched: bool) -> list[str]:
    lines = []
    for value in values:
        shape = value.shape[1:] if is_batched else value.shape
        sizes = [-1 if size is None else size for size in shape]
        lines += [f"{field} {{", f'  name: "{value.name}"', f"  data_type: {_TYPES[value.dtype]}"]
        # A dimension is needed even where a sample is a single number.
        lines.append(f"  dims: {sizes or [1]}")
        lines += [] if sizes else ["  reshape { shape: [ ] }"]
        lines.append("}")
    return lines


BACKEND = TritonBackend()
