"""begin(): what the user gives becomes the Compilation that all passes extend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Required

from lanac.compilation import Compilation, Imported
from lanac.errors import DataError, WorkspaceError
from lanac.frontend.expectation import run_model
from lanac.frontend.partition import SlotOptions
from lanac.instruments import Instruments
from lanac.ops.base import Family
from lanac.ops.families import Families
from lanac.ops.own import own_families
from lanac.ops.restrictions import Restrictions
from lanac.passes import TraceProgram, run_passes
from lanac.passes.import_costs import REFUSE, check_missing, check_model, check_target
from lanac.passes.latency_costs import check_latency_source
from lanac.settings import Settings
from lanac.targets import LATENCY, Target, parse_budgets, parse_target, read_costs
from lanac.targets.predicted import Anchor
from lanac.training.data import Data
from lanac.training.device import pick_device
from lanac.training.inputs import forward_order, in_one_order
from lanac.training.task import Task, check_outputs
from lanac.workspace import Workspace, disk_errors, write_atomically


class Given(TypedDict, total=False):
    """What a user gives besides model, budget, target, pool and folder; `begin` says what each is."""

    train_data: Required[Any]
    val_data: Any
    workspace: str | Path | None
    loss: Callable[..., Any] | None
    metric: Callable[..., Any] | None
    example_inputs: Any
    granularity: str
    only: Sequence[str]
    skip: Sequence[str]
    fix: Sequence[str]
    keep: Sequence[str]
    max_changed: int | None
    anchors: Sequence[Anchor]
    costs: str | Path | None
    missing: str
    seed: int
    device: str
    instruments: Instruments | None


def begin(
    model: nn.Module,
    *,
    train_data: Any,
    val_data: Any = None,
    budget: str = "0.5x",
    target: str = "cpu",
    out: str | Path = "lanac-out",
    workspace: str | Path | None = None,
    loss: Callable[..., Any] | None = None,
    metric: Callable[..., Any] | None = None,
    example_inputs: Any = None,
    ops: Sequence[Family | type[Family]] | Families = (),
    granularity: str = "block",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    fix: Sequence[str] = (),
    keep: Sequence[str] = (),
    max_changed: int | None = None,
    anchors: Sequence[Anchor] = (),
    costs: str | Path | None = None,
    missing: str = REFUSE,
    held_out: int = Settings.held_out,
    seed: int = 0,
    device: str = "auto",
    instruments: Instruments | None = None,
) -> Compilation:
    """Checks what the user gave, traces the teacher and opens the workspace.

    Args:
        model: the trained teacher.
        train_data: a torch Dataset of (inputs, target), a DataLoader over one, or a pair of
            tensors. Inputs are a tensor, a tuple of tensors, or a dict of tensors by the names of
            the arguments of `forward`; a sample that is a dict as a whole has its target under
            `labels`. Without targets, the distance to the teacher's outputs takes the place of
            the loss.
        val_data: the same; only reported on. Default: a held-out part of the training data.
        budget: as for `compile`.
        target: `DEVICE[:RUNTIME][:PRECISION][:bN][:tN]`.
        out: folder for the students; belongs to one teacher.
        workspace: folder for intermediate results. Default: `workspace` below `out`.
        loss: `loss(outputs, targets)`, a scalar; default cross-entropy.
        metric: `metric(outputs, targets)`, higher is better; default top-1.
        example_inputs: a tensor, a tuple or a dict of tensors, as in a sample; default: taken from
            `train_data`.
        ops: your own op families, objects or classes, for this run alone.
        granularity: `block`: a residual block is one slot; `layer`: a convolution or linear layer
            with its norm and activation is one.
        only: glob patterns of module paths, such as `layer3.*`; nothing else becomes a slot.
        skip: glob patterns of module paths that stay as they are.
        fix: `SLOT=OP`, the op that a slot takes in every plan.
        keep: glob patterns of slots that keep the teacher's op.
        max_changed: at most so many slots take another op.
        anchors: networks that were measured on the target; they make predicted latencies better.
        costs: a cost table that `lanac measure` wrote, on this machine or another.
        missing: what becomes of ops that the table does not have: `refuse`, `drop` or `predict`.
        held_out: training samples kept from training, for decisions; at most a tenth.
        seed: everything random follows from it.
        device: where training runs: auto, cpu or cuda.
        instruments: what watches the run; default: the log.

    Returns:
        What `run_passes` goes on from.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    budgets = parse_budgets(budget)
    resources = tuple(dict.fromkeys(name for item in budgets for name in item.resources))
    options, families = SlotOptions(granularity, tuple(only), tuple(skip)), own_families(ops)
    parsed_target, training_device = parse_target(target), pick_device(device)
    imported = read_imported(costs, missing, parsed_target)
    if LATENCY in resources and imported is None:
        check_latency_source(parsed_target)
    task = build_task(model, train_data, val_data, loss, metric, held_out, seed)
    example = example_tensors(task, example_inputs)
    model.eval()
    check_task(task, model)
    folder = Path(out)
    start = Compilation(
        task=task,
        example=example,
        target=parsed_target,
        budget=budgets[0],
        resources=resources,
        workspace=Workspace(Path(workspace) if workspace is not None else folder / "workspace"),
        out=folder,
        device=training_device,
        seed=seed,
        instruments=instruments or Instruments(),
        anchors=tuple(anchors),
        fingerprints={"data": task.train.fingerprint()},
        families=families,
        imported=imported,
    )
    traced = run_passes(start, [TraceProgram(model, task.train.names, options)])
    if imported is not None:
        check_model(imported.path, imported.table, traced.need("program"))
    claim_folder(folder, traced.fingerprints["teacher"])
    restrictions = Restrictions.of(traced.need("program"), fix, keep, max_changed)
    return traced.having(restrictions=restrictions)


def read_imported(costs: str | Path | None, missing: str, target: Target) -> Imported | None:
    """Reads the user's cost table; None where there is none.

    Raises:
        CostTableError: it is damaged, or was measured on another target.
    """
    check_missing(missing)
    if costs is None:
        return None
    table = read_costs(Path(costs))
    check_target(Path(costs), table, target)
    return Imported(Path(costs), table, missing)


def build_task(
    model: nn.Module,
    train_data: Any,
    val_data: Any,
    loss: Callable[..., Any] | None,
    metric: Callable[..., Any] | None,
    held_out: int,
    seed: int,
) -> Task:
    """Wraps the user's data; keeps a part of the training data for decisions.

    Raises:
        DataError: no data, too few, or inputs by names that the model does not take.
    """
    if train_data is None:
        raise DataError("train_data() gave nothing; expected a torch Dataset of (input, target)")
    data = Data.of(train_data, "train_data()").for_network(model)
    if len(data) < 20:
        raise DataError(f"train_data() has {len(data)} samples; lanac needs at least 20")
    labelled = data.batch([0]).targets is not None
    train, kept = data.split(max(2, min(held_out, len(data) // 10)), seed)
    val = kept
    if val_data is not None:
        val = replace(Data.of(val_data, "val_data()"), names=data.names)
    if labelled and val.batch([0]).targets is None:
        raise DataError("val_data() has no labels, train_data() has; give val_data() labels too")
    return Task(train, val, kept, loss, metric, labelled)


def unlabelled_task(
    model: nn.Module, example_inputs: Any, train_data: Any
) -> tuple[Task, tuple[Tensor, ...]]:
    """A task for looking at a network, where nothing is learnt, and its example inputs.

    Raises:
        DataError: neither inputs nor data are given, or they are not tensors.
    """
    if example_inputs is None and train_data is None:
        raise DataError("give example_inputs, such as torch.zeros(2, 3, 224, 224), or train_data")
    # Where the user gives inputs, no data are needed but some for the record.
    samples = train_data if example_inputs is None else torch.zeros(2, 1)
    data = Data.of(samples, "train_data()")
    if isinstance(example_inputs, Mapping):
        order = forward_order(model, tuple(example_inputs), "example_inputs()")
        data = replace(data, names=order)
    elif example_inputs is None:
        data = data.for_network(model)
    task = Task(data, data, data, None, None, labelled=False)
    return task, example_tensors(task, example_inputs)


def check_task(task: Task, model: nn.Module) -> None:
    """Runs model, loss and metric on the first samples: what does not fit is found before any work.

    Raises:
        LanacError: one of them fails.
    """
    names = task.train.names
    for data in (task.train, task.val):
        first = f"the first samples of {data.name}"
        batch, one = (data.batch(range(min(count, len(data)))) for count in (8, 1))
        outputs, of_one = (
            run_model(model, part.inputs, f"{first},", data.name, names) for part in (batch, one)
        )
        check_outputs(outputs, of_one, first)
        if data is task.train:
            task.check(outputs, batch)
        task.check_metric(outputs, batch, data.name)


def example_tensors(task: Task, example_inputs: Any) -> tuple[Tensor, ...]:
    """The example inputs, batch first; two training samples where the user gave none.

    Raises:
        DataError: they are not tensors, or not of the form that the samples have.
    """
    if example_inputs is None:
        return task.train.batch([0, 1]).inputs
    tensors = in_one_order(example_inputs, task.train.names, "example_inputs()")
    if any(tensor.dim() == 0 for tensor in tensors):
        raise DataError("example_inputs() has a tensor without dimensions; expected a batch first")
    return tensors


def claim_folder(folder: Path, teacher: str) -> None:
    """Notes in the output folder whose students it holds.

    Raises:
        WorkspaceError: it belongs to another teacher.
    """
    note = folder / "lanac.json"
    if note.exists():
        try:
            owner = json.loads(note.read_text(encoding="utf-8"))["teacher"]
        except (ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(f"{note} is damaged; choose another folder with --out") from error
        if owner != teacher:
            raise WorkspaceError(
                f"{folder} holds students of another teacher (or of this one with other weights); "
                "choose another folder with --out"
            )
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # the workspace may lie elsewhere
        write_atomically(note, json.dumps({"teacher": teacher}, indent=2).encode() + b"\n")
