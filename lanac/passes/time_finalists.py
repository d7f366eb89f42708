"""Close the loop: the finalists are timed as whole networks; a broken budget is tightened."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lanac.backends.base import RUNTIMES
from lanac.compilation import Compilation, Finalist
from lanac.ir import Program
from lanac.ops.folding import folded
from lanac.passes.assemble import assemble_student
from lanac.passes.time_networks import target_specs, time_networks
from lanac.passes.time_parts import timing_runtime
from lanac.targets import LATENCY, Timing

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
        reason = untimed_because(compilation)
        if reason is not None:
            compilation.instruments.say(
                f"the finalists are not timed ({reason}): the best one is chosen by its loss"
            )
            done = tuple(replace(item, costs=item.plan.costs) for item in finalists)
            return compilation.having(finalists=done, chosen=done[0])
        timed = self._time(compilation, finalists)
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

    def _time(
        self, compilation: Compilation, finalists: Sequence[Finalist]
    ) -> tuple[Finalist, ...]:
        program, target = compilation.need("program"), compilation.target
        inputs = target_inputs(program, target.batch)
        networks = [program.teacher]
        networks += [folded(assemble_student(compilation, item.plan.ops)) for item in finalists]
        runtime = timing_runtime(compilation)
        with tempfile.TemporaryDirectory(prefix="lanac-") as scratch:
            files = []
            for place, network in enumerate(networks):
                folder = Path(scratch) / str(place)
                folder.mkdir()
                files.append(runtime.write(network.eval(), inputs, folder, target))
            teacher, *students = time_networks(
                compilation, files, self.rounds, "timing the finalists"
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


def untimed_because(compilation: Compilation) -> str | None:
    """Why whole networks cannot be timed on the target here; None where they can."""
    costs = compilation.costs
    if costs is not None and costs.elsewhere:
        return f"costs were measured on {costs.elsewhere}, which is not here"
    return RUNTIMES.get(compilation.target.runtime).unavailable(compilation.target)


def target_inputs(program: Program, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the network at the target's batch: zeros."""
    return tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in target_specs(program, batch))
