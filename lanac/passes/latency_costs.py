"""Where latencies come from: this machine, or a cost table that was measured elsewhere."""

from __future__ import annotations

from lanac.compilation import Compilation
from lanac.passes.import_costs import imported_latencies
from lanac.passes.latency import Counts, Latencies, Thoroughness, measure_latencies
from lanac.passes.op_modules import OpModules


def latency_costs(
    compilation: Compilation, modules: OpModules, counted: Counts, how: Thoroughness
) -> Latencies:
    """The latencies of the ops, and of what lies outside the slots.

    Args:
        compilation: with a program.
        modules: builds the ops.
        counted: counted costs by resource, slot name and op: of every op that is asked for.
        how: how latency is measured, where it is.

    Raises:
        BackendError: the target cannot be measured here, and nothing else tells.
    """
    if compilation.imported is not None:
        return imported_latencies(compilation, compilation.imported, modules, counted)
    return measure_latencies(compilation, modules, counted, how)
