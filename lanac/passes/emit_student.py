"""Emit: the student's files, each compared with the student before it is called good."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx

from lanac.backends import onnxruntime
from lanac.backends.base import BACKENDS, Backend
from lanac.compilation import Compilation, Outputs
from lanac.errors import BackendError
from lanac.ir import named_tensors
from lanac.ops.folding import Foldable, folded
from lanac.passes.time_finalists import target_inputs
from lanac.targets import (
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    Target,
    Timing,
    count_flops,
    count_params,
    peak_activation_bytes,
    time_interleaved,
)
from lanac.training.data import in_order
from lanac.training.device import on_device
from lanac.training.finetune import measure
from lanac.workspace import disk_errors

_TOLERANCE = {"pytorch": 1e-6}
_OTHER_TOLERANCE = 1e-4
"""Largest difference, relative to the largest output, by backend, and for all that is not listed.

The emitted source runs the same kernels, so it has to agree almost to the bit; another runtime
adds in another order."""


@dataclass(frozen=True)
class EmitStudent:
    """Writes, verifies and measures the student's files.

    What is written is the student with its ops folded (`lanac.ops.folding`).
    The files appear in the output folder only after every one of them has agreed with the student
    on real inputs; what does not agree is kept aside in `rejected`.

    Attributes:
        backends: names of the outputs.
        samples: how many held-out samples the files are compared on.
        rounds: visits per network when teacher and student are timed.
    """

    backends: tuple[str, ...] = ("pytorch", "onnx")
    samples: int = 64
    rounds: int = 101
    name = "emit_student"
    needs = ("program", "chosen", "student")
    provides = ("outputs",)

    def run(self, compilation: Compilation) -> Compilation:
        folder = student_folder(compilation)
        inputs = real_inputs(compilation, self.samples)
        student = fold_student(compilation.need("student").module, inputs)
        with disk_errors(folder):
            partial = _fresh(folder.with_name(f".{folder.name}.partial"))
            files, agreement = {}, {}
            for name in self.backends:
                backend = BACKENDS.get(name)
                written = backend.emit(student, partial, inputs, compilation.target)
                agreement[name] = _compare(
                    backend, written, student, inputs, partial, compilation.target
                )
                files[name] = tuple(path.name for path in written)
            _replace(partial, folder)
        latencies = self._time(compilation, student, folder, files, inputs)
        outputs = _outputs(compilation, student, folder, files, agreement, *latencies)
        return compilation.having(outputs=outputs)

    def _time(
        self,
        compilation: Compilation,
        student: fx.GraphModule,
        folder: Path,
        files: Mapping[str, Sequence[str]],
        inputs: tuple[Tensor, ...],
    ) -> tuple[Timing, Timing]:
        """Student and teacher as ONNX from the same exporter, interleaved.

        Where no ONNX file was asked for, one is written for the timing alone.
        """
        program, target = compilation.need("program"), compilation.target
        onnx = BACKENDS.get("onnx")
        scratch = _fresh(folder.with_name(f".{folder.name}.timing"))
        try:
            (teacher_file, *_) = onnx.emit(
                program.teacher, _fresh(scratch / "teacher"), inputs, target
            )
            if "onnx" in files:
                student_file = folder / files["onnx"][0]
            else:
                (student_file, *_) = onnx.emit(student, _fresh(scratch / "student"), inputs, target)
            zeros = target_inputs(program, target.batch)
            runs = [
                onnxruntime.timed_run(path, zeros, target.threads)
                for path in (student_file, teacher_file)
            ]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        with (
            compilation.workspace.lock("measuring", "is measuring latencies", wait=True),
            compilation.instruments.progress("timing the student", self.rounds) as advance,
        ):
            student_time, teacher_time = time_interleaved(
                runs, threads=target.threads, rounds=self.rounds, progress=lambda _: advance(1)
            )
        return student_time, teacher_time


def student_folder(compilation: Compilation) -> Path:
    """Where a student's files go: one folder per budget and target, such as `0.5x@cpu`."""
    budget = str(compilation.budget).replace("=", "-")
    return compilation.out / f"{budget}@{compilation.target.short}"


def real_inputs(compilation: Compilation, samples: int) -> tuple[Tensor, ...]:
    """Held-out samples, on the CPU."""
    data = compilation.task.held_out
    order = in_order(min(samples, len(data)), samples)
    return next(iter(data.batches(order, compilation.seed))).inputs


@torch.no_grad()
def fold_student(student: fx.GraphModule, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """The student as it runs: itself where nothing is to be folded.

    Raises:
        BackendError: folding changes what the student computes on these inputs.
    """
    classes = {type(part).__name__ for part in student.modules() if isinstance(part, Foldable)}
    if not classes:
        return student
    result = folded(student)
    pairs = zip(named_tensors(student(*inputs)), named_tensors(result(*inputs)), strict=True)
    worst = max(_difference(before, after) for (_, before), (_, after) in pairs)
    if not worst <= _OTHER_TOLERANCE:
        raise BackendError(
            f"folding {', '.join(sorted(classes))} changes the student's outputs: relative "
            f"difference {worst:.2e} on {len(inputs[0])} real inputs, at most "
            f"{_OTHER_TOLERANCE:.0e} expected. This is a defect of the op's family, please report it"
        )
    return result


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _replace(partial: Path, folder: Path) -> None:
    """Puts the finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def _compare(
    backend: Backend,
    files: tuple[Path, ...],
    student: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    partial: Path,
    target: Target,
) -> float:
    """Largest difference to the student relative to its largest output, over all outputs."""
    run = backend.load(files, target)
    worst = 0.0
    for count in sorted({1, len(inputs[0])}):  # one sample and many: the batch must be dynamic
        some = tuple(value[:count] for value in inputs)
        expected, actual = [tensor for _, tensor in named_tensors(student(*some))], run(*some)
        differences = [_difference(a, b) for a, b in zip(expected, actual, strict=True)]
        worst = max(worst, *differences)
    tolerance = _TOLERANCE.get(backend.name, _OTHER_TOLERANCE)
    if not worst <= tolerance:
        kept = partial.with_name("rejected")
        shutil.rmtree(kept, ignore_errors=True)
        partial.rename(kept)
        raise BackendError(
            f"{files[0].name} does not agree with the student: relative difference {worst:.2e} on "
            f"{len(inputs[0])} real inputs, at most {tolerance:.0e} expected. "
            f"The file is kept in {kept} for inspection; this is a defect of lanac, please report it"
        )
    return worst


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value; infinite where they cannot be compared."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    if not ours.numel():
        return 0.0
    ours, theirs = ours.double(), theirs.double()
    difference = float((ours - theirs).abs().max()) / max(float(ours.abs().max()), 1e-12)
    return difference if math.isfinite(difference) else math.inf  # nan is above nothing


def _outputs(
    compilation: Compilation,
    student: fx.GraphModule,
    folder: Path,
    files: Mapping[str, tuple[str, ...]],
    agreement: Mapping[str, float],
    latency: Timing,
    teacher_latency: Timing,
) -> Outputs:
    program, task = compilation.need("program"), compilation.task
    device = compilation.device
    one = tuple(value[:1] for value in compilation.example)
    costs, teacher_costs = (
        {
            PARAMS: float(count_params(module)),
            FLOPS: float(count_flops(module, one)),
            MEMORY: float(peak_activation_bytes(module, one)),
        }
        for module in (student, program.teacher)
    )
    costs[LATENCY], teacher_costs[LATENCY] = latency.median_ms, teacher_latency.median_ms
    with compilation.instruments.progress("measuring accuracy", 2) as advance:
        teacher, metrics = on_device(program.teacher, device), []
        for module in (on_device(student, device), teacher):
            metrics.append(measure(module, teacher, task, task.val, device))
            advance(1)
    return Outputs(
        folder,
        files,
        agreement,
        metrics[0],
        metrics[1],
        latency,
        teacher_latency,
        costs,
        teacher_costs,
    )
