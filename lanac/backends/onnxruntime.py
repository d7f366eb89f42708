"""ONNX Runtime on the CPU: runs emitted networks and times ops. The only file that imports it."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from lanac.backends._flat import with_flat_outputs
from lanac.backends.base import Run
from lanac.errors import BackendError
from lanac.targets import Target
from lanac.targets.device import processor_fingerprint


class OnnxRuntime:
    """ONNX Runtime on this machine's CPU."""

    name = "onnxruntime"
    reads = "onnx"

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed (pip install onnxruntime)"
        return target.entry.absent()

    def version(self, target: Target) -> str:
        """The library's version and the processor."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__} {processor_fingerprint()}"

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Writes `timed.onnx`, see `export_for_timing`."""
        path = folder / "timed.onnx"
        path.write_bytes(export_for_timing(module, inputs))
        return (path,)

    def open(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...], target: Target) -> Run:
        """Inputs and outputs are bound once: a call copies nothing."""
        return timed_run(files[0], inputs, target.threads)


def session(model: bytes | Path, threads: int) -> Any:
    """An onnxruntime.InferenceSession on the CPU with all graph optimisations.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning helper thread would eat the core that the next measurement runs on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(f"ONNX Runtime refuses the model: {error}") from error


def timed_run(model: bytes | Path, inputs: Sequence[Tensor], threads: int) -> Run:
    """A function that runs one inference and copies nothing: inputs and outputs are bound once."""
    import onnxruntime

    running = session(model, threads)
    binding = running.io_binding()
    entries, by_place = running.get_inputs(), _by_place(inputs)
    # An input of which only the shape is used is lost in an export for timing.
    is_for_timing = all(entry.name in by_place for entry in entries)
    values = [by_place[entry.name] for entry in entries] if is_for_timing else inputs
    for entry, value in zip(entries, values, strict=True):
        array = onnxruntime.OrtValue.ortvalue_from_numpy(value.detach().contiguous().numpy())
        binding.bind_ortvalue_input(entry.name, array)
    for entry in running.get_outputs():
        binding.bind_output(entry.name)
    return lambda: running.run_with_iobinding(binding)


def _by_place(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The inputs by the names that they have in an export for timing."""
    return {f"timed_input_{place}": value for place, value in enumerate(inputs)}


def export_for_timing(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """A fixed-shape ONNX model whose only use is to be timed.

    The older exporter takes 0.02 s for an op where the newer one takes 1.4 s (docs/benchmarks.md);
    ONNX Runtime folds the batch norms of both alike. Where it fails, the newer one is used.

    Raises:
        BackendError: neither can express the module.
    """
    module = module.eval()
    if isinstance(module, nn.Identity):
        raise BackendError("identity is no operation and costs nothing; do not time it")
    graph_module = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(module)
    buffer = io.BytesIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            flat, _ = with_flat_outputs(graph_module, inputs)
            # The stub of `f` forgets that the older exporter writes to buffers.
            target: Any = buffer
            names = list(_by_place(inputs))
            torch.onnx.export(
                flat, inputs, target, dynamo=False, opset_version=18, input_names=names
            )
        return buffer.getvalue()
    except Exception:
        # Any failure of the deprecated exporter is answered by the maintained one.
        from lanac.backends.onnx import export_model

        return bytes(export_model(graph_module, inputs, dynamic_batch=False).SerializeToString())
    finally:
        logger.setLevel(level)


RUNTIME = OnnxRuntime()
