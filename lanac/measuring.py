"""measure(): a cost table of a network on this machine, for use on any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lanac.compilation import Compilation
from lanac.errors import BackendError, CommandError
from lanac.frontend.partition import SlotOptions
from lanac.inspection import look_at
from lanac.instruments import Instruments
from lanac.ir import IDENTITY, OpSpec
from lanac.ops.base import Family
from lanac.ops.own import own_families
from lanac.ops.pool import parse_pool
from lanac.passes import CheckOps, EnumeratePool, run_passes
from lanac.passes.import_costs import SLOWER, library_and_device, slot_shapes
from lanac.passes.latency import Latencies, Thoroughness, measure_latencies
from lanac.passes.measure_costs import count_ops
from lanac.passes.op_modules import OpModules
from lanac.targets import (
    CostFile,
    Entry,
    Target,
    format_costs,
    parse_target,
    what_hash,
)
from lanac.targets.device import cuda_device, processor
from lanac.version import __version__
from lanac.workspace import Workspace, disk_errors, write_atomically


def measure(
    model: nn.Module,
    out: str | Path,
    *,
    example_inputs: Any = None,
    train_data: Any = None,
    target: str = "cpu",
    pool: str = "default",
    ops: Sequence[Family | type[Family]] = (),
    everything: bool = False,
    granularity: str = "block",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    workspace: str | Path | None = None,
    seed: int = 0,
    instruments: Instruments | None = None,
) -> CostFile:
    """Measures what every op of a pool costs in a network, and writes the cost table.

    Nothing is trained. What was measured before is taken from the workspace, so that a measurement
    that was stopped goes on where it was.

    Args:
        model: the network, with the weights that will be compressed: some ops take their form from
            them.
        out: the file to write.
        example_inputs: a tensor, a tuple or a dict of tensors, batch first; default: from `train_data`.
        train_data: as for `compile`; only two samples are read.
        target: `DEVICE[:RUNTIME][:PRECISION][:bN][:tN]`; the device has to be this machine's.
        pool: pool names, families and ops, separated by commas.
        ops: your own op families.
        everything: whether ops that cannot be cheaper than what they would replace are timed too.
        granularity: `block` or `layer`, as for `compile`.
        only: glob patterns of module paths; nothing else becomes a slot.
        skip: glob patterns of module paths that stay as they are.
        workspace: folder for intermediate results; default: `OUT.workspace`.
        seed: as for `compile`: an op's random weights follow from it.
        instruments: what watches; default: the log.

    Returns:
        The table, as it was written.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise CommandError(f"-o {str(path)!r}: expected the name of a file in a folder that exists")
    parsed = parse_target(target)
    if not library_and_device(parsed)[0]:
        from lanac.backends.base import RUNTIMES

        reason = RUNTIMES.get(parsed.runtime).unavailable(parsed)
        raise BackendError(
            f"{parsed} cannot be measured here: {reason}. Run lanac measure on that machine"
        )
    families = own_families(ops)
    members = tuple(parse_pool(pool, families))
    folder = Path(workspace) if workspace is not None else path.with_name(f"{path.name}.workspace")
    options = SlotOptions(granularity, tuple(only), tuple(skip))
    traced = look_at(
        model,
        example_inputs,
        train_data,
        options,
        parsed,
        Workspace(folder),
        instruments or Instruments(),
        families=families,
    )
    begun = traced.having(seed=seed)
    with begun.workspace.lock("run", f"is measuring into {path}"):
        listed = run_passes(begun, [EnumeratePool(members), CheckOps(as_source=False)])
        table = _measured(listed, Thoroughness(everything=everything))
    with disk_errors(path.parent):
        write_atomically(path, format_costs(table).encode())
    return table


def _measured(listed: Compilation, how: Thoroughness) -> CostFile:
    program, modules = listed.need("program"), OpModules(listed)
    counted, failed = count_ops(listed, program, listed.need("pool"), modules)
    listed = listed.dropping(failed)
    found = measure_latencies(listed, modules, counted, how)
    listed = listed.dropping(found.failed)
    target = listed.target
    runtime, fingerprint = library_and_device(target)
    return CostFile(
        target=str(target),
        runtime=runtime,
        device=_device(target),
        device_fingerprint=fingerprint,
        inputs=tuple(str(spec) for spec in program.input_specs),
        slots=slot_shapes(program),
        latency_ms=found.teacher,
        outside_latency_ms=found.constant,
        error=found.error,
        networks=tuple((whole.predicted_ms, whole.measured_ms) for whole in found.wholes),
        entries=tuple(_entries(listed, modules, found)),
        lanac=__version__,
        torch=torch.__version__,
    )


def _entries(listed: Compilation, modules: OpModules, found: Latencies) -> list[Entry]:
    """One entry for each op that was asked for, the reason where it was not timed."""
    reasons = {(item.slot, item.op): item.reason for item in listed.dropped}
    unbuilt = what_hash("")
    entries = []
    for slot in listed.need("program").slots:
        for op in listed.need("pool")[slot.name]:
            if op == IDENTITY:
                continue
            latency_ms = found.costs[slot.name].get(op)
            why = reasons.get((slot.name, op), SLOWER) if latency_ms is None else None
            is_built = why in (None, SLOWER) or _is_counted(found, slot.name, op)
            what = what_hash(modules.signature(slot, op)) if is_built else unbuilt
            entries.append(Entry(slot.name, str(op), what, latency_ms, why=why))
    return entries


def _is_counted(found: Latencies, slot: str, op: OpSpec) -> bool:
    """Whether an op failed only when it was timed: it can be built."""
    return any((item.slot, item.op) == (slot, op) for item in found.failed)


def _device(target: Target) -> str:
    if target.entry.kind == "gpu":
        return cuda_device() or target.entry.title
    return processor() or target.entry.title
