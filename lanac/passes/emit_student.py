"""Emit: the student's files, each compared with the student before it is called good."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from lanac.backends.agreement import TOLERANCES, Agreement, compare, difference, disagreement
from lanac.backends.base import BACKENDS
from lanac.backends.from_onnx import FromOnnx
from lanac.backends.onnx import BACKEND as ONNX
from lanac.backends.onnx import export_model, save_model
from lanac.backends.onnx_files import read_signature
from lanac.compilation import Compilation, Outputs
from lanac.errors import BackendError
from lanac.ir import named_tensors
from lanac.ops.folding import Foldable, folded
from lanac.passes.time_finalists import target_inputs, untimed_because
from lanac.passes.time_networks import time_networks
from lanac.passes.time_parts import timing_runtime
from lanac.targets import (
    ENERGY,
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    SIZE,
    Timing,
    count_bytes,
    count_flops,
    count_params,
    peak_activation_bytes,
)
from lanac.training.data import in_order
from lanac.training.device import on_device
from lanac.training.finetune import measure
from lanac.workspace import disk_errors

TEACHER_NAME = "teacher.onnx"
"""Beside the students of a teacher: `lanac bench` times it with them."""


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
        scratch = folder.with_name(f".{folder.name}.exact")
        try:
            with disk_errors(folder):
                partial = _fresh(folder.with_name(f".{folder.name}.partial"))
                # One export serves all that is made of ONNX, and the timing.
                exact = ONNX.emit(student, _fresh(scratch), inputs, compilation.target)
                files, verified = self._write(compilation, student, partial, inputs, exact)
                teacher = teacher_file(compilation, inputs)
                _replace(partial, folder)
            emitted = {
                name: tuple(folder / file for file in names) for name, names in files.items()
            }
            untimed = untimed_because(compilation)
            times: tuple[Timing | None, Timing | None] = None, None
            if untimed is None:
                times = self._time(compilation, student, Emitted(emitted, exact, teacher), scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        outputs = _outputs(compilation, student, folder, files, verified, *times)
        outputs = replace(outputs, untimed=untimed or "")
        return compilation.having(outputs=outputs)

    def _write(
        self,
        compilation: Compilation,
        student: fx.GraphModule,
        partial: Path,
        inputs: tuple[Tensor, ...],
        exact: tuple[Path, ...],
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, Agreement]]:
        """Writes and verifies the outputs one by one: file names and agreement by output."""
        files, verified = {}, {}
        target, task = compilation.target, compilation.task
        for name in self.backends:
            backend = BACKENDS.get(name)
            if name == ONNX.name:
                written = tuple(Path(shutil.copy(path, partial)) for path in exact)
            elif isinstance(backend, FromOnnx):
                written = backend.convert(exact[0], partial, target)
            else:
                written = backend.emit(student, partial, inputs, target)
            verified[name] = found = compare(
                backend,
                written,
                target,
                lambda *some: tuple(tensor for _, tensor in named_tensors(student(*some))),
                inputs,
                classes=task.labelled and task.user_metric is None,
            )
            if not found.is_good:
                kept = _replace(partial, partial.with_name("rejected"))
                why = disagreement(found, written[0].name, "real", exact[0], inputs, target)
                raise BackendError(f"{why}. The file is kept in {kept} for inspection")
            files[name] = tuple(path.relative_to(partial).as_posix() for path in written)
        return files, verified

    def _time(
        self,
        compilation: Compilation,
        student: fx.GraphModule,
        files: Emitted,
        scratch: Path,
    ) -> tuple[Timing, Timing]:
        """Student and teacher in the target's runtime, interleaved: the files that it reads.

        Where those were not asked for, they are written for the timing alone.
        """
        runtime = timing_runtime(compilation)
        program = compilation.need("program")
        timed = [
            files.emitted.get(runtime.reads)
            or _files_of(compilation, runtime.reads, student, files.student, scratch / "student"),
            _files_of(
                compilation, runtime.reads, program.teacher, (files.teacher,), scratch / "teacher"
            ),
        ]
        student_time, teacher_time = time_networks(
            compilation, timed, self.rounds, "timing the student"
        )
        return student_time, teacher_time


@dataclass(frozen=True)
class Emitted:
    """Files that a student and its teacher can be timed from.

    Attributes:
        emitted: of the student, by output.
        student: as ONNX.
        teacher: the same.
    """

    emitted: Mapping[str, tuple[Path, ...]]
    student: tuple[Path, ...]
    teacher: Path


def _files_of(
    compilation: Compilation,
    output: str,
    network: fx.GraphModule,
    model: tuple[Path, ...],
    folder: Path,
) -> tuple[Path, ...]:
    """Files of an output for a network of which there is the ONNX model already."""
    if output == ONNX.name:
        return model
    backend, target = BACKENDS.get(output), compilation.target
    if isinstance(backend, FromOnnx):
        return backend.convert(model[0], _fresh(folder), target)
    inputs = target_inputs(compilation.need("program"), target.batch)
    return backend.emit(network.eval(), _fresh(folder), inputs, target)


def student_folder(compilation: Compilation) -> Path:
    """Where a student's files go: one folder per budget and target, such as `0.5x@cpu`."""
    budget = str(compilation.budget).replace("=", "-")
    return compilation.out / f"{budget}@{compilation.target.short}"


def teacher_file(compilation: Compilation, inputs: tuple[Tensor, ...]) -> Path:
    """The teacher as ONNX, beside its students; written once for all of them.

    A file of another input size is written anew.
    """
    program, path = compilation.need("program"), compilation.out / TEACHER_NAME
    if path.exists():
        wanted = [(spec.shape[1:], str(spec.dtype)) for spec in program.input_specs]
        found = read_signature(path).inputs
        if wanted == [(value.shape[1:], f"torch.{value.dtype}") for value in found]:
            return path
    save_model(export_model(program.teacher, inputs), compilation.out, TEACHER_NAME)
    return path


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
    worst = max(difference(before, after) for (_, before), (_, after) in pairs)
    if not worst <= TOLERANCES["fp32"]:
        raise BackendError(
            f"folding {', '.join(sorted(classes))} changes the student's outputs: relative "
            f"difference {worst:.2e} on {len(inputs[0])} real inputs, at most "
            f"{TOLERANCES['fp32']:.0e} expected. This is a defect of the op's family, please report it"
        )
    return result


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _replace(partial: Path, folder: Path) -> Path:
    """Puts the finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _outputs(
    compilation: Compilation,
    student: fx.GraphModule,
    folder: Path,
    files: Mapping[str, tuple[str, ...]],
    verified: Mapping[str, Agreement],
    latency: Timing | None,
    teacher_latency: Timing | None,
) -> Outputs:
    program, task = compilation.need("program"), compilation.task
    device = compilation.device
    one = tuple(value[:1] for value in compilation.example)
    costs, teacher_costs = (
        {
            PARAMS: float(count_params(module)),
            FLOPS: float(count_flops(module, one)),
            MEMORY: float(peak_activation_bytes(module, one)),
            SIZE: float(count_bytes(module, compilation.target.precision)),
        }
        for module in (student, program.teacher)
    )
    # What was not measured as a whole is what it was selected by.
    for resource in {LATENCY, ENERGY} & set(compilation.budget.resources):
        costs[resource] = compilation.need("chosen").plan.costs[resource]
        teacher_costs[resource] = compilation.need("costs").teacher[resource]
    if latency is not None and teacher_latency is not None:
        costs[LATENCY], teacher_costs[LATENCY] = latency.median_ms, teacher_latency.median_ms
    with compilation.instruments.progress("measuring accuracy", 2) as advance:
        teacher, metrics = on_device(program.teacher, device), []
        for module in (on_device(student, device), teacher):
            metrics.append(measure(module, teacher, task, task.val, device))
            advance(1)
    return Outputs(
        folder,
        files,
        verified,
        metrics[0],
        metrics[1],
        latency,
        teacher_latency,
        costs,
        teacher_costs,
    )
