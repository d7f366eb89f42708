"""Close the loop: the finalists are timed as whole networks; a broken budget is tightened."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lanac.backends import onnxruntime
from lanac.compilation import Compilation, Finalist
from lanac.ir import Program
from lanac.ops.folding import folded
from lanac.passes.assemble import assemble_student
from lanac.targets import LATENCY, Timing, time_interleaved

START = 0.95
"""Share of a latency budget that plans are selected for: measurements scatter by a few percent."""


@dataclass(frozen=True)
class TimeFinalists:
    """Times the finalists in the target's runtime, interleaved with the teacher.

    The best one that meets the budget is chosen. Where none does, `tightening` is lowered and
    nothing is chosen: the pipeline then selects again.

    Attributes:
        rounds: visits per network.
        margin: how far below the budget a latency has to be measured, so that the emitted
            student, measured again, still meets it.
    """

    rounds: int = 41
    margin: float = 0.03
    name = "time_finalists"
    needs = ("program", "finalists")
    provides = ("finalists",)

    def run(self, compilation: Compilation) -> Compilation:
        finalists: Sequence[Finalist] = compilation.need("finalists")
        if LATENCY not in compilation.budget.resources:
            done = tuple(replace(item, costs=item.plan.costs) for item in finalists)
            return compilation.having(finalists=done, chosen=done[0])
        timed = self.time(compilation, finalists)
        limit = compilation.budget.absolute(compilation.need("costs").teacher)[LATENCY]
        teacher = compilation.need("costs").teacher[LATENCY]
        fitting = [item for item in timed if item.costs[LATENCY] <= limit * (1 - self.margin)]
        if fitting:
            return compilation.having(
                finalists=timed, chosen=min(fitting, key=lambda item: item.loss)
            )
        ratios = [item.plan.costs[LATENCY] / item.costs[LATENCY] for item in timed]
        fastest = min(timed, key=lambda item: item.costs[LATENCY])
        compilation.instruments.say(
            f"the fastest finalist was measured at {fastest.costs[LATENCY] / teacher:.3f}x of the "
            f"teacher, predicted {fastest.plan.costs[LATENCY] / teacher:.3f}x, with "
            f"{limit / teacher:.3f}x allowed: tightening"
        )
        # What was predicted too low by a factor is asked for lower by that factor; where the
        # prediction was right and noise decided, a little lower.
        before = compilation.tightening.get(LATENCY, 1.0)
        corrected = START * statistics.median(ratios)
        tightening = {**compilation.tightening, LATENCY: min(corrected, 0.98 * before)}
        return compilation.having(finalists=timed, tightening=tightening)

    def time(self, compilation: Compilation, finalists: Sequence[Finalist]) -> tuple[Finalist, ...]:
        """The finalists with their latencies, all measured in one interleaved run."""
        program, target = compilation.need("program"), compilation.target
        inputs = target_inputs(program, target.batch)
        networks = [program.teacher]
        networks += [folded(assemble_student(compilation, item.plan.ops)) for item in finalists]
        runs = [
            onnxruntime.timed_run(
                onnxruntime.export_for_timing(network, inputs), inputs, target.threads
            )
            for network in networks
        ]
        with (
            compilation.workspace.lock("measuring", "is measuring latencies", wait=True),
            compilation.instruments.progress("timing the finalists", self.rounds) as advance,
        ):
            teacher, *students = time_interleaved(
                runs, threads=target.threads, rounds=self.rounds, progress=lambda _: advance(1)
            )
        reference = compilation.need("costs").teacher[LATENCY]
        return tuple(
            replace(
                item,
                latency=timing,
                teacher_latency=teacher,
                costs={**item.plan.costs, LATENCY: _relative(timing, teacher) * reference},
            )
            for item, timing in zip(finalists, students, strict=True)
        )


def _relative(timing: Timing, teacher: Timing) -> float:
    """The latency as a share of the teacher's, measured in the same minutes."""
    return timing.median_ms / teacher.median_ms


def target_inputs(program: Program, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the network at the target's batch."""
    return tuple(
        torch.zeros(spec.with_batch(batch).shape, dtype=spec.dtype) for spec in program.input_specs
    )
