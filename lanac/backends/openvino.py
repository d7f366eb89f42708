"""OpenVINO: writes networks as its own intermediate representation, and runs them on the CPU.

The only file that imports it.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lanac.backends.base import Run, Runner
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnxruntime import RUNTIME as ONNXRUNTIME
from lanac.errors import BackendError, first_line
from lanac.targets import Target
from lanac.targets.device import processor_fingerprint

MODEL_NAME = "student.xml"
WEIGHTS_NAME = "student.bin"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""How OpenVINO calls the precisions. Without a hint it takes bf16 where the processor has it."""


class OpenvinoBackend(FromOnnx):
    """Writes `student.xml` and `student.bin`."""

    name = "openvino"

    def unavailable(self, target: Target) -> str | None:
        """Why it cannot be written here for that target, or None where it can."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed (pip install openvino)"
        if target.entry.kind != "cpu":
            return f"OpenVINO runs on CPUs, and {target.device} is none"
        return None

    def convert(self, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
        """Weights are stored in fp16 for an fp16 target alone: otherwise precision would be lost."""
        import openvino

        try:
            converted = openvino.convert_model(model)
            with tempfile.TemporaryDirectory(prefix=".openvino.", dir=folder) as draft:
                path = Path(draft) / MODEL_NAME
                openvino.save_model(converted, path, compress_to_fp16=target.precision == "fp16")
                for name in (WEIGHTS_NAME, MODEL_NAME):
                    (Path(draft) / name).replace(folder / name)
        # OpenVINO has no class of error of its own.
        except Exception as error:
            raise BackendError(
                f"OpenVINO cannot convert the student: {first_line(error)}"
            ) from error
        return folder / MODEL_NAME, folder / WEIGHTS_NAME

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """Compiles the model for this CPU, one thread, in the target's precision."""
        compiled = compile_model(files[0], target.precision, threads=1)
        outputs = list(compiled.outputs)

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = compiled([value.detach().cpu().numpy() for value in inputs])
            # Copies: OpenVINO gives the memory to the next inference.
            return tuple(torch.from_numpy(found[port].copy()) for port in outputs)

        return run

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """The precision is no property of the file."""
        hint = HINTS[target.precision]
        return (
            f"{MODEL_NAME} computes in {target.precision} with "
            f'core.compile_model(..., "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}}); without '
            "the hint OpenVINO chooses by itself",
        )


class Openvino:
    """OpenVINO on this machine's CPU."""

    name = "openvino"
    reads = "openvino"

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed (pip install openvino)"
        absent = target.entry.absent()
        if absent is not None or target.precision == "fp32":
            return absent
        # Elsewhere OpenVINO would compute in fp32 without a word.
        if target.precision.upper() not in _capabilities():
            return f"this machine's processor does not compute in {target.precision}"
        return None

    def version(self, target: Target) -> str:
        """The library's version and the processor."""
        import openvino

        return f"openvino {openvino.get_version()} {processor_fingerprint()}"

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Writes `timed.onnx`, as for ONNX Runtime: OpenVINO reads it as well as its own files."""
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


@functools.cache
def _core() -> Any:
    """The one openvino.Core of this process, which is never destroyed.

    With the last core and network OpenVINO's CPU plugin frees the stack on which it had the loading
    thread handle signals. Freed in another thread, that thread keeps it, and its next signal (a
    data loader's worker ends, say) is the end of the process: seen with OpenVINO 2026.4.
    """
    import openvino

    return openvino.Core()


def _capabilities() -> list[str]:
    """The number formats of this machine's processor, and some more."""
    known: list[str] = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return known


def compile_model(
    model: Path, precision: str, threads: int, inputs: tuple[Tensor, ...] | None = None
) -> Any:
    """An openvino.CompiledModel on the CPU.

    Args:
        model: an .xml or .onnx file.
        precision: fp32, fp16 or bf16.
        threads: of one inference.
        inputs: fix the shapes of a network with a dynamic batch.

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


BACKEND = OpenvinoBackend()
RUNTIME = Openvino()
