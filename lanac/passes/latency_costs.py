"""Where latencies come from: this machine, a cost table, or a model of the device."""

from __future__ import annotations

from lanac.backends.base import RUNTIMES
from lanac.compilation import Compilation
from lanac.errors import PredictionError, TargetError
from lanac.passes.import_costs import imported_latencies
from lanac.passes.latency import Counts, Latencies, Thoroughness, measure_latencies
from lanac.passes.op_modules import OpModules
from lanac.passes.predicted_costs import predicted_latencies, predicted_missing
from lanac.targets import Target
from lanac.targets.predicted import way_of


def untimed(compilation: Compilation) -> str | None:
    """Why whole networks cannot be timed here for the target; None where they can."""
    costs, target = compilation.costs, compilation.target
    if costs is not None and costs.elsewhere:
        return f"costs were measured on {costs.elsewhere}, which is not here"
    return RUNTIMES.get(target.runtime).unavailable(target)


def latency_costs(
    compilation: Compilation, modules: OpModules, counted: Counts, how: Thoroughness
) -> Latencies:
    """The latencies of the ops, and of what lies outside the slots.

    They come from the user's cost table where there is one; else they are measured where the
    target's runtime and device are here, and predicted where they are not.

    Args:
        compilation: with a program.
        modules: builds the ops.
        counted: counted costs by resource, slot name and op: of every op that is asked for.
        how: how latency is measured, where it is.

    Raises:
        CostTableError: the table lacks ops.
        TargetError: the target can neither be measured here nor predicted.
    """
    imported, target = compilation.imported, compilation.target
    if imported is not None:
        fill = predicted_missing(compilation, imported.table, modules)
        return imported_latencies(compilation, imported, modules, counted, fill)
    if RUNTIMES.get(target.runtime).unavailable(target) is None:
        return measure_latencies(compilation, modules, counted, how)
    check_latency_source(target)
    return predicted_latencies(compilation, modules, counted)


def check_latency_source(target: Target) -> None:
    """Refuses a target whose latency nothing here can tell, before any work is done.

    Raises:
        TargetError: it can neither be measured here nor predicted.
    """
    why = RUNTIMES.get(target.runtime).unavailable(target)
    if why is None:
        return
    try:
        way_of(target)
    except PredictionError as error:
        raise TargetError(
            f"latency on {target} can neither be measured here ({why}) nor predicted: {error}. "
            "Measure a cost table there with `lanac measure` and give it with --costs, or limit "
            "params or flops instead of latency"
        ) from error
