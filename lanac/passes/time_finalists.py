"""Close the loop: the finalists are timed as whole networks; a broken budget is tightened."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lanac.compilation import Compilation, Finalist
from lanac.ir import Program
from lanac.ops.folding import folded
from lanac.passes.assemble import assemble_student
from lanac.passes.guard_budget import SAFE, START, meeting_probabilities
from lanac.passes.latency_costs import untimed
from lanac.passes.predicted_costs import predicted_whole
from lanac.passes.time_networks import target_specs, time_networks
from lanac.passes.time_parts import timing_runtime
from lanac.targets import LATENCY, Timing


@dataclass(frozen=True)
class TimeFinalists:
    """Times the finalists in the target's runtime, interleaved with the teacher.

    The best one that meets the budget is chosen. Where none does, `tightening` is lowered and
    nothing is chosen: the pipeline then selects again. A finalist that was timed already (before
    others were found by refining) is not timed again.

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
            done = tuple(replace(item, costs=item.plan.costs, fits=True) for item in finalists)
            return compilation.having(finalists=done, chosen=done[0])
        reason = untimed(compilation)
        if reason is not None:
            compilation.instruments.say(f"the finalists are not timed: {reason}")
            if compilation.need("costs").prediction is None:  # an imported table, and nothing else
                done = tuple(replace(item, costs=item.plan.costs, fits=True) for item in finalists)
                return compilation.having(
                    finalists=done, chosen=min(done, key=lambda item: item.loss)
                )
        limit = compilation.budget.absolute(compilation.need("costs").teacher)[LATENCY]
        teacher = compilation.need("costs").teacher[LATENCY]
        if reason is not None:
            timed = self._predicted(compilation, finalists, limit)
        else:
            timed = self._timed(compilation, finalists, limit)
        fitting = [item for item in timed if item.fits]
        if fitting:
            return compilation.having(
                finalists=timed, chosen=min(fitting, key=lambda item: item.loss)
            )
        ratios = [item.plan.costs[LATENCY] / item.costs[LATENCY] for item in timed]
        known = "measured" if reason is None else "predicted as a whole"
        kept = "" if reason is not None else f", {self.margin:.0%} of it kept for noise"
        fastest = min(timed, key=lambda item: item.costs[LATENCY])
        compilation.instruments.say(
            f"the fastest finalist was {known} at {fastest.costs[LATENCY] / teacher:.3f}x of the "
            f"teacher, predicted {fastest.plan.costs[LATENCY] / teacher:.3f}x, with "
            f"{limit / teacher:.3f}x allowed{kept}: tightening"
        )
        # What was predicted too low by a factor is asked for lower by that factor; where the
        # prediction was right and noise decided, a little lower.
        before = compilation.tightening.get(LATENCY, 1.0)
        corrected = (START if reason is None else before) * statistics.median(ratios)
        tightening = {**compilation.tightening, LATENCY: min(corrected, 0.98 * before)}
        return compilation.having(finalists=timed, tightening=tightening)

    def _timed(
        self, compilation: Compilation, finalists: Sequence[Finalist], limit: float
    ) -> tuple[Finalist, ...]:
        new_ones = [item for item in finalists if item.latency is None]
        new = {item.plan.ops: item for item in self.time(compilation, new_ones)} if new_ones else {}
        return tuple(
            replace(item, fits=item.costs[LATENCY] <= limit * (1 - self.margin))
            for item in (new.get(item.plan.ops, item) for item in finalists)
        )

    def _predicted(
        self, compilation: Compilation, finalists: Sequence[Finalist], limit: float
    ) -> tuple[Finalist, ...]:
        """The finalists predicted as whole networks.

        Of those below the limit the ones that most likely meet it go on.
        """
        teacher = compilation.need("costs").prediction.teacher
        reference = compilation.need("costs").teacher[LATENCY]
        chances = meeting_probabilities(compilation, [item.plan for item in finalists])
        found = []
        for item, chance in zip(finalists, chances, strict=True):
            network = folded(assemble_student(compilation, item.plan.ops))
            whole = predicted_whole(compilation, network).latency_ms / teacher.latency_ms
            costs = {**item.plan.costs, LATENCY: whole * reference}
            fits = costs[LATENCY] <= limit
            found.append(replace(item, costs=costs, probability=chance, fits=fits))
        likely = [item.probability or 0.0 for item in found if item.fits]
        least = min(SAFE, max(likely, default=0.0))
        return tuple(
            replace(item, fits=item.fits and (item.probability or 0.0) >= least) for item in found
        )

    def time(self, compilation: Compilation, finalists: Sequence[Finalist]) -> tuple[Finalist, ...]:
        """The finalists with their latencies, all measured in one interleaved run."""
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


def target_inputs(program: Program, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the network at the target's batch: zeros."""
    return tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in target_specs(program, batch))
