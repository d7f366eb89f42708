"""TensorRT: an engine where its GPU is here, otherwise what builds one on the right machine."""

from __future__ import annotations

import shlex
from pathlib import Path

from lanac.backends._engines import (
    POLYGRAPHY,
    TENSORRT,
    build_engine,
    convert_arguments,
    max_batch,
    run_engine,
)
from lanac.backends._nvidia import (
    EngineRuntime,
    exact_version,
    not_runnable,
    oldest_version,
    refused,
    wanted_version,
)
from lanac.backends.base import Runner
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx_files import (
    Signature,
    file_name,
    load_rounded,
    read_signature,
    write_in_precision,
)
from lanac.targets import Target

ENGINE_NAME = "student.engine"
SCRIPT_NAME = "build_engine.sh"
CACHE_NAME = "timing.cache"


class TensorrtBackend(FromOnnx):
    """Writes `student.PRECISION.onnx` with `student.engine`, or with `build_engine.sh`."""

    name = TENSORRT

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be written for that target; without a GPU a script takes the engine's place."""
        return refused(target, TENSORRT)

    def unbuilt(self, target: Target) -> str | None:
        """Why the engine itself is not built here, or None where it is."""
        return not_runnable(target, TENSORRT)

    def convert(self, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
        """The network is strongly typed: its precision is the ONNX file's."""
        made = write_in_precision(model, folder, target.precision)
        if self.unbuilt(target) is None:
            engine = folder / ENGINE_NAME
            return engine, *made, build_here(made[0], engine, target)
        script = folder / SCRIPT_NAME
        script.write_text(build_script(read_signature(made[0]), target), encoding="utf-8")
        script.chmod(0o755)
        return *made, script

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """The engine on its GPU where it was built, otherwise the ONNX file that it will be made of."""
        if files[0].name == ENGINE_NAME:
            most = max_batch(target.batch)
            return run_engine(files[0], read_signature(files[1]), TENSORRT, most)
        return load_rounded(files[0], target.precision)

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """How to get the engine."""
        if files[0].name == ENGINE_NAME:
            return ()
        return (
            f"no engine was built: {self.unbuilt(target)}. Run ./{SCRIPT_NAME} on the machine "
            f"with {target.entry.title}: it needs TensorRT {wanted_version(target)} "
            f"({_pip(target)}). What was compared is {files[0].name}",
        )


def build_here(model: Path, engine: Path, target: Target) -> Path:
    """Builds an engine for the GPU of this machine.

    Args:
        model: ONNX, in the precision that the engine is to have.
        engine: where it goes.
        target: its batch is the one that the engine is best at.

    Returns:
        The timing cache beside the engine: the next build of such a network is quicker.

    Raises:
        BackendError: TensorRT builds none; says why.
    """
    cache = engine.with_name(CACHE_NAME)
    arguments = convert_arguments(
        str(model.resolve()),
        str(engine.resolve()),
        read_signature(model),
        target.batch,
        timing_cache=str(cache.resolve()),
    )
    build_engine(arguments, engine.parent, TENSORRT)
    return cache


def _pip(target: Target) -> str:
    """How to install it."""
    exact = exact_version(target)
    numbers = ".".join(map(str, exact or oldest_version(target)))
    wanted = f"tensorrt=={numbers}.*" if exact else f"tensorrt>={numbers}"
    return f"pip install '{wanted}' polygraphy"


def build_script(signature: Signature, target: Target) -> str:
    """A shell script that builds the engine where its GPU is.

    Args:
        signature: of the ONNX file.
        target: its device, precision and batch count.
    """
    exact = exact_version(target)
    major, minor = exact or oldest_version(target)
    model = file_name(target.precision)
    arguments = convert_arguments(
        model, ENGINE_NAME, signature, target.batch, timing_cache=CACHE_NAME
    )
    comparison = "==" if exact else ">="
    return f"""#!/usr/bin/env bash
# Builds {ENGINE_NAME} of {model} for {target}. Run it on a machine with
# {target.entry.title}, where TensorRT {wanted_version(target)} is installed.
set -euo pipefail
cd "$(dirname "$0")"
python=${{PYTHON:-python3}}

found=$("$python" -c 'import tensorrt; print(tensorrt.__version__)' 2>/dev/null) || found=none
"$python" - "$found" <<'CHECK' || exit 1
import sys

found = sys.argv[1]
if found == "none" or not tuple(map(int, found.split(".")[:2])) {comparison} ({major}, {minor}):
    sys.exit("expected TensorRT {wanted_version(target)}, found " + found + ": {_pip(target)}")
CHECK

"$python" -c {shlex.quote(POLYGRAPHY)} \\
    {shlex.join(arguments)}
echo "built {ENGINE_NAME}"
"""


class TensorrtRuntime(EngineRuntime):
    """Times engines of this library; made without arguments, by the process that times."""

    def __init__(self) -> None:
        super().__init__(TENSORRT)


BACKEND = TensorrtBackend()
RUNTIME = TensorrtRuntime()
