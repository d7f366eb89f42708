"""OpenVINO on the CPU. The only file that imports it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lanac.backends.base import Run
from lanac.backends.onnxruntime import RUNTIME as ONNXRUNTIME
from lanac.errors import BackendError, first_line
from lanac.targets import Target
from lanac.targets.device import processor_fingerprint

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""How OpenVINO calls the precisions. Without a hint it takes bf16 where the processor has it."""


class Openvino:
    """OpenVINO on this machine's CPU."""

    name = "openvino"
    reads = "onnx"

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed (pip install openvino)"
        absent = target.entry.absent()
        if absent is not None or target.precision == "fp32":
            return absent
        # Elsewhere OpenVINO would compute in fp32 without a word.
        known = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if target.precision.upper() not in known:
            return f"this machine's processor does not compute in {target.precision}"
        return None

    def version(self, target: Target) -> str:
        """The library's version and the processor."""
        import openvino

        return f"openvino {openvino.get_version()} {processor_fingerprint()}"

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Writes `timed.onnx`, as for ONNX Runtime."""
        return ONNXRUNTIME.write(module, inputs, folder, target)

    def open(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...], target: Target) -> Run:
        """Inputs and outputs stay where they are: a call copies nothing."""
        compiled = compile_model(files[0], target.precision, target.threads, inputs)
        request = compiled.create_infer_request()
        for place in range(len(compiled.inputs)):
            request.get_input_tensor(place).data[:] = 0

        def run() -> None:
            request.start_async()
            request.wait()

        return run


def _core() -> Any:
    import openvino

    return openvino.Core()


def compile_model(
    model: Path, precision: str, threads: int, inputs: tuple[Tensor, ...] | None = None
) -> Any:
    """An openvino.CompiledModel on the CPU.

    Args:
        model: an .xml or .onnx file.
        precision: fp32, fp16 or bf16.
        threads: of one inference.
        inputs: fixes the shapes of a network with a dynamic batch.

    Raises:
        BackendError: OpenVINO refuses the model.
    """
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    core = _core()
    try:
        read = core.read_model(model)
        if inputs is not None and any(port.partial_shape.is_dynamic for port in read.inputs):
            shapes = [list(value.shape) for value in inputs]
            read.reshape(dict(zip(read.inputs, shapes, strict=True)))
        return core.compile_model(read, "CPU", options)
    # OpenVINO has no class of error of its own.
    except Exception as error:
        raise BackendError(f"OpenVINO refuses the model: {first_line(error)}") from error


RUNTIME = Openvino()
