"""inspect(): what lanac sees of a network, without training anything."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lanac.beginning import unlabelled_task
from lanac.compilation import Compilation
from lanac.errors import BackendError
from lanac.frontend.partition import SlotOptions
from lanac.instruments import Instruments
from lanac.ir import Program
from lanac.ops.families import Families
from lanac.ops.pool import parse_pool
from lanac.passes import CheckOutputs, EnumeratePool, MeasureCosts, Pass, TraceProgram, run_passes
from lanac.passes.latency import Thoroughness
from lanac.targets import LATENCY, CostTable, Effort, Target, parse_budgets, parse_target
from lanac.workspace import Workspace

_QUICK = Thoroughness(Effort(least=7, most=15), 4, Effort(least=7, most=15))
"""Half a minute for resnet50 on one core."""

_SLOW = Thoroughness(Effort(least=3, most=5), 1, Effort(least=3, most=5))
"""The same for a network of which one inference takes long; the shares scatter a little more."""

_SLOW_S = 0.5


@dataclass(frozen=True)
class Inspection:
    """A network as lanac sees it.

    Attributes:
        name: what it is called.
        program: traced, cut into slots, verified.
        costs: of every slot's own op; latency is there where it was measured.
        target: what latency was measured on.
    """

    name: str
    program: Program
    costs: CostTable
    target: Target


def inspect(  # like compile: the name that users expect
    model: nn.Module,
    *,
    example_inputs: Any = None,
    train_data: Any = None,
    name: str = "",
    target: str = "cpu",
    latency: bool = True,
    granularity: str = "block",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    instruments: Instruments | None = None,
) -> Inspection:
    """Traces a network, cuts it into slots and finds out what each costs.

    Latency is measured as a compilation measures it: every distinct slot alone, and whole networks
    with slots skipped, so that the parts add up. Where the runtime refuses the network, latency is
    left out with a warning.

    Args:
        model: the network; it need not be trained.
        example_inputs: a tensor, a tuple or a dict of tensors, batch first; default: from `train_data`.
        train_data: as for `compile`; only two samples are read, and not those where
            `example_inputs` are given.
        name: for titles; default: the class of the model.
        target: `cpu[:bN][:tN]`: batch and threads of the latency.
        latency: whether to measure it.
        granularity: `block` or `layer`, as for `compile`.
        only: glob patterns of module paths; nothing else becomes a slot.
        skip: glob patterns of module paths that stay as they are.
        instruments: what watches; default: the log.

    Returns:
        The program with its costs.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    options = SlotOptions(granularity, tuple(only), tuple(skip))
    parsed_target = parse_target(target)
    with tempfile.TemporaryDirectory(prefix="lanac-") as folder:
        traced = look_at(
            model,
            example_inputs,
            train_data,
            options,
            parsed_target,
            Workspace(Path(folder)),
            instruments or Instruments(),
            (LATENCY,) if latency else (),
        )
        try:
            run_passes(traced, [CheckOutputs(("pytorch",))])
        except BackendError as error:
            traced.instruments.warn(str(error))
        costs = _costs(traced)
    return Inspection(name or type(model).__name__, traced.need("program"), costs, parsed_target)


def look_at(
    model: nn.Module,
    example_inputs: Any,
    train_data: Any,
    options: SlotOptions,
    target: Target,
    workspace: Workspace,
    instruments: Instruments,
    resources: tuple[str, ...] = (LATENCY,),
    families: Families | None = None,
) -> Compilation:
    """A network traced and cut into slots, without data to learn from.

    Args:
        model: the network.
        example_inputs: a tensor, a tuple or a dict of tensors; None: from `train_data`.
        train_data: where two samples are taken from; None where example inputs are given.
        options: what becomes a slot.
        target: where it is to be fast.
        workspace: for what is measured.
        instruments: what watches.
        resources: what has to be known of its ops.
        families: op families of the run.

    Raises:
        LanacError: anything that is the user's to mend.
    """
    task, example = unlabelled_task(model, example_inputs, train_data)
    start = Compilation(
        task=task,
        example=example,
        target=target,
        budget=parse_budgets("0.5x")[0],
        resources=resources,
        workspace=workspace,
        out=workspace.folder,
        device=torch.device("cpu"),
        instruments=instruments,
        families=families or Families(),
    )
    return run_passes(start, [TraceProgram(model, task.train.names, options)])


def _costs(traced: Compilation) -> CostTable:
    how = _QUICK if _seconds(traced) < _SLOW_S else _SLOW
    passes: list[Pass] = [EnumeratePool(tuple(parse_pool("skip"))), MeasureCosts(how)]
    try:
        done = run_passes(traced, passes)
    except BackendError as error:
        if not traced.resources:
            raise
        traced.instruments.warn(f"latency is not measured: {error}")
        done = run_passes(replace(traced, resources=()), passes)
    costs: CostTable = done.need("costs")
    return costs


@torch.no_grad()
def _seconds(traced: Compilation) -> float:
    """About how long one inference takes at the target's batch."""
    program: Program = traced.need("program")
    specs = [spec.with_batch(traced.target.batch) for spec in program.input_specs]
    inputs = [torch.zeros(spec.shape, dtype=spec.dtype) for spec in specs]
    began = time.process_time()
    program.teacher(*inputs)
    return time.process_time() - began
