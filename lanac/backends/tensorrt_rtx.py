"""TensorRT-RTX: engines for a GPU that need not be here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lanac.backends._engines import (
    RTX,
    build_engine,
    check_engine,
    convert_arguments,
    max_batch,
    run_engine,
)
from lanac.backends._nvidia import EngineRuntime, capability, not_runnable, refused
from lanac.backends.base import Runner
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx_files import load_rounded, read_signature, write_in_precision
from lanac.targets import Target

ENGINE_NAME = "student.rtx.engine"


class TensorrtRtxBackend(FromOnnx):
    """Writes `student.rtx.engine` and the ONNX file that it was built of."""

    name = RTX

    def unavailable(self, target: Target) -> str | None:
        """Why no engine can be built here for that target, or None where it can."""
        reason = refused(target, RTX)
        if reason is None and importlib.util.find_spec(RTX) is None:
            return "tensorrt-rtx is not installed (pip install tensorrt-rtx)"
        return reason

    def convert(self, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
        """Builds for the device's compute capability; the header is checked at once."""
        made = write_in_precision(model, folder, target.precision)
        engine = folder / ENGINE_NAME
        arguments = convert_arguments(
            str(made[0].resolve()),
            str(engine.resolve()),
            read_signature(made[0]),
            target.batch,
            capability=capability(target),
        )
        build_engine(arguments, folder, RTX)
        check_engine(engine)
        return engine, *made

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """The engine where its GPU is here, otherwise the ONNX file that it was built of."""
        check_engine(files[0])
        if not_runnable(target, RTX) is None:
            signature = read_signature(files[1])
            return run_engine(files[0], signature, RTX, max_batch(target.batch))
        return load_rounded(files[1], target.precision)

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """What was not verified."""
        reason = not_runnable(target, RTX)
        if reason is None:
            return ()
        return (
            f"{files[0].name} was built and its header checked, but not run: {reason}. What was "
            f"compared is {files[1].name}, of which it was built",
        )


class TensorrtRtxRuntime(EngineRuntime):
    """Times engines of this library; made without arguments, by the process that times."""

    def __init__(self) -> None:
        super().__init__(RTX)


BACKEND = TensorrtRtxBackend()
RUNTIME = TensorrtRtxRuntime()
