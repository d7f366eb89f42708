"""bench(): teacher and student side by side, timed again from their files."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from lanac.backends import isolation
from lanac.backends.base import BACKENDS, RUNTIMES, Runtime
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.isolation import WorkerDied
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.onnx_files import Signature, read_signature
from lanac.errors import BackendError, CommandError
from lanac.finished import read_student
from lanac.instruments import Instruments
from lanac.ir import TensorSpec
from lanac.targets import Target, Timing, parse_target, sample_interleaved
from lanac.targets.timing import summarise

SESSIONS = 3
"""How often each network is opened: where its weights come to lie in memory changes its latency."""


@dataclass(frozen=True)
class Benchmark:
    """Two networks, timed side by side.

    Attributes:
        student: folder of the student.
        target: where they were timed.
        version: of runtime and device.
        teacher_ms: the teacher's latency per inference.
        student_ms: the student's.
        ratio: median of the student's latency over the teacher's, round by round.
        low, high: quartiles of that.
    """

    student: Path
    target: Target
    version: str
    teacher_ms: Timing
    student_ms: Timing
    ratio: float
    low: float
    high: float


def bench(
    student: str | Path,
    *,
    target: str | None = None,
    rounds: int = 41,
    teacher: str | Path | None = None,
    instruments: Instruments | None = None,
) -> Benchmark:
    """Times a finished student beside its teacher, interleaved, in the target's runtime.

    Both are made of their ONNX files, in the same way; no code of the student is executed.

    Args:
        student: its folder.
        target: where; default: what the student was compiled for.
        rounds: measurements of each.
        teacher: the teacher as ONNX; default: the file that lies beside the students.
        instruments: what shows the progress; default: the log.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    finished = read_student(Path(student))
    wanted = parse_target(target) if target is not None else finished.target
    runtime = _runtime(wanted)
    own = finished.model()
    other = Path(teacher) if teacher is not None else finished.teacher()
    if not other.exists():
        raise CommandError(f"--teacher {str(other)!r}: there is no such file")
    signature = read_signature(own)
    _check_same_inputs(read_signature(other), signature, other)
    with tempfile.TemporaryDirectory(prefix="lanac.bench.") as scratch:
        files = [
            _files(runtime, model, Path(scratch) / name, wanted)
            for name, model in (("teacher", other), ("student", own))
        ]
        taken = _sample(runtime, wanted, files, signature, rounds, instruments or Instruments())
    ratios = [mine / theirs for theirs, mine in zip(*taken, strict=True)]
    spread = summarise(ratios)
    return Benchmark(
        finished.folder,
        wanted,
        runtime.version(wanted),
        summarise(taken[0]),
        summarise(taken[1]),
        statistics.median(ratios),
        spread.low_ms,
        spread.high_ms,
    )


def _runtime(target: Target) -> Runtime:
    """The target's runtime, where it is here and runs what can be made of ONNX."""
    runtime = RUNTIMES.get(target.runtime)
    reason = runtime.unavailable(target)
    if reason is not None:
        raise BackendError(f"nothing can be timed on {target} here: {reason}")
    if runtime.reads != ONNX.name and not isinstance(BACKENDS.get(runtime.reads), FromOnnx):
        known = [
            other.name
            for other in RUNTIMES
            if other.name in target.entry.runtimes
            and (other.reads == ONNX.name or isinstance(BACKENDS.get(other.reads), FromOnnx))
        ]
        raise CommandError(
            f"{runtime.name} runs source code, and no code of a finished student is executed here; "
            f"name a runtime that runs its ONNX model with --target: {', '.join(known)}"
        )
    return runtime


def _check_same_inputs(teacher: Signature, student: Signature, path: Path) -> None:
    ours, theirs = (
        [(value.dtype, value.shape) for value in signature.inputs]
        for signature in (student, teacher)
    )
    if ours != theirs:
        raise CommandError(
            f"{path} is not the teacher of this student: it takes {_said(teacher)}, the student "
            f"{_said(student)}"
        )


def _said(signature: Signature) -> str:
    return ", ".join(
        f"{value.dtype}({', '.join('B' if size is None else str(size) for size in value.shape)})"
        for value in signature.inputs
    )


def _files(runtime: Runtime, model: Path, folder: Path, target: Target) -> tuple[Path, ...]:
    backend = BACKENDS.get(runtime.reads)
    if isinstance(backend, FromOnnx):
        folder.mkdir()
        return backend.convert(model, folder, target)
    return (model,)


def _sample(
    runtime: Runtime,
    target: Target,
    files: list[tuple[Path, ...]],
    signature: Signature,
    rounds: int,
    instruments: Instruments,
) -> list[list[float]]:
    """Milliseconds of each network in each round, over all the times that it is opened."""
    specs = tuple(
        TensorSpec(value.with_batch(target.batch), getattr(torch, value.dtype))
        for value in signature.inputs
    )
    place = isolation.new_bench(runtime, target)
    try:
        samplers = [
            place.open(f"{index} {session}", network, specs)
            for session in range(SESSIONS)
            for index, network in enumerate(files)
        ]
        each = -(-rounds // SESSIONS)
        with instruments.progress("timing", each) as advance:
            taken = sample_interleaved(samplers, rounds=each, progress=lambda _: advance(1))
    except WorkerDied as error:
        raise BackendError(f"a network cannot be timed on {target}: {error}") from error
    finally:
        place.quit()
    count = len(files)
    return [[value for own in taken[index::count] for value in own] for index in range(count)]
