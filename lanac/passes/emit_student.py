"""Emit: the student's files, each compared with the student before it is called good."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from lanac.backends.agreement import TOLERANCES, difference
from lanac.backends.onnx import BACKEND as ONNX
from lanac.compilation import Compilation, Outputs
from lanac.errors import BackendError
from lanac.ir import named_tensors
from lanac.ops.folding import Foldable, folded
from lanac.passes.latency_costs import untimed
from lanac.passes.predicted_costs import predicted_whole
from lanac.passes.student_files import StudentFiles, student_folder, teacher_file
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
        folder, task = student_folder(compilation), compilation.task
        inputs = real_inputs(compilation, self.samples)
        student = fold_student(compilation.need("student").module, inputs)
        with StudentFiles(student, inputs, compilation.target, folder) as written:
            for name in self.backends:
                written.add(name, classes=task.labelled and task.user_metric is None)
            written.publish()
            why, timed = untimed(compilation), None
            if why is None:
                timed = self._time(compilation, written)
            elif ONNX.name in self.backends:
                teacher_file(compilation, inputs)  # `lanac bench` can time both where the device is
        outputs = _outputs(compilation, student, folder, written, timed)
        return compilation.having(outputs=replace(outputs, untimed=why or ""))

    def _time(self, compilation: Compilation, written: StudentFiles) -> tuple[Timing, Timing]:
        """Student and teacher in the target's runtime, interleaved: the files that it reads."""
        reads = timing_runtime(compilation).reads
        timed = [written.read_as(reads), written.teacher_read_as(reads, compilation)]
        student_time, teacher_time = time_networks(
            compilation, timed, self.rounds, "timing the student"
        )
        return student_time, teacher_time


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


def _outputs(
    compilation: Compilation,
    student: fx.GraphModule,
    folder: Path,
    written: StudentFiles,
    timed: tuple[Timing, Timing] | None,
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
    predictions = None
    # What was not measured as a whole is what it was selected by.
    for resource in {LATENCY, ENERGY} & set(compilation.budget.resources):
        costs[resource] = compilation.need("chosen").plan.costs[resource]
        teacher_costs[resource] = compilation.need("costs").teacher[resource]
    if timed is not None:
        costs[LATENCY], teacher_costs[LATENCY] = (timing.median_ms for timing in timed)
    elif compilation.costs is not None and compilation.costs.prediction is not None:
        predicted = compilation.costs.prediction.teacher
        predictions = predicted_whole(compilation, student), predicted
        costs[LATENCY], teacher_costs[LATENCY] = (item.latency_ms for item in predictions)
    with compilation.instruments.progress("measuring accuracy", 2) as advance:
        teacher, metrics = on_device(program.teacher, device), []
        for module in (on_device(student, device), teacher):
            metrics.append(measure(module, teacher, task, task.val, device))
            advance(1)
    latency, teacher_latency = timed if timed is not None else (None, None)
    return Outputs(
        folder,
        written.files,
        written.verified,
        metrics[0],
        metrics[1],
        latency,
        teacher_latency,
        costs,
        teacher_costs,
        predictions,
    )
