"""What the commands that prepare a teacher have in common: compile, pareto, compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lanac.cli.anchors import load_anchors, parse_anchors
from lanac.cli.options import (
    Anchors,
    Ops,
    Pool,
    Seed,
    Slots,
    Target,
    WorkspaceFolder,
    own_ops,
    separated,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """Options of a preparation."""

    target: Target = "cpu"
    data: Annotated[
        Path | None,
        typer.Option(
            help="Images for timm: and torchvision: models: DIR/train/CLASS/*.jpg and "
            "DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg.",
            metavar="DIR",
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the students. Default: the model's name and .lanac."),
    ] = None
    pool: Pool = "default"
    ops: Ops = None
    slots: Slots
    fix: Annotated[
        list[str] | None,
        typer.Option(
            help="The op that a slot takes, such as 'layer1.0=slim(w=0.5)'.", metavar="SLOT=OP"
        ),
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option(help="These slots keep the teacher's op: glob patterns.", metavar="GLOB"),
    ] = None
    max_changed: Annotated[
        int | None, typer.Option(help="At most so many slots take another op.", metavar="N")
    ] = None
    anchor: Anchors = None
    costs: Annotated[
        Path | None,
        typer.Option(
            help="Latencies from a cost table that lanac measure wrote, here or on another machine.",
            metavar="FILE",
        ),
    ] = None
    missing: Annotated[
        str,
        typer.Option(
            help="Ops that the cost table lacks: refuse, drop them, or predict them.",
            metavar="WHAT",
        ),
    ] = "refuse"
    seed: Seed = 0
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda.")] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads of training and scoring. Default: torch's own number. Latencies are "
            "measured on the target's (cpu:tN).",
            metavar="N",
        ),
    ] = None
    workspace: WorkspaceFolder = None

    def load(self, model: str) -> tuple[nn.Module, dict[str, Any]]:
        """The teacher, and what `compile`, `pareto` and `compare` take beside it.

        Raises:
            LanacError: something that an option names is not there, or malformed.
        """
        from lanac.frontend.sources import load_source

        brought = own_ops(self.ops)  # first: quicker than the model
        measured = parse_anchors(self.anchor)
        source = load_source(model, self.data)
        return source.model, {
            **source.task,
            **self.slots.given(),
            "target": self.target,
            "out": self.out if self.out is not None else Path(f"{source.name}.lanac"),
            "pool": self.pool,
            "ops": brought,
            "fix": self.fix or (),
            "keep": separated(self.keep),
            "max_changed": self.max_changed,
            "anchors": load_anchors(measured, self.target),
            "costs": self.costs,
            "missing": self.missing,
            "seed": self.seed,
            "device": self.device,
            "threads": self.threads,
            "workspace": self.workspace,
        }
