"""Options that several commands share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lanac.errors import CommandError

if TYPE_CHECKING:
    from lanac.ops.base import Family

Model = Annotated[
    str,
    typer.Argument(
        help="model.py, timm:NAME or torchvision:NAME. @FILE.safetensors after a name loads your "
        "own weights.",
        metavar="MODEL",
    ),
]
Student = Annotated[Path, typer.Argument(help="Folder of a student, such as model.lanac/0.5x@cpu.")]
Ops = Annotated[
    list[Path] | None,
    typer.Option(
        help="Your own op families: a Python file that defines them (docs/own-ops.md). It is executed.",
        metavar="FILE",
    ),
]

Target = Annotated[
    str, typer.Option(help="DEVICE[:RUNTIME][:PRECISION][:bN][:tN], such as cpu or cpu:b8.")
]
Pool = Annotated[
    str,
    typer.Option(
        help="default, skip, inherit, paper, families (also your own) and single ops, separated by "
        "commas."
    ),
]
Anchors = Annotated[
    list[str] | None,
    typer.Option(
        help="A network that was measured on the target, in ms for the whole batch, such as "
        "timm:resnet50=12.3ms. One or a few make predicted latencies much better.",
        metavar="MODEL=MS",
    ),
]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
WorkspaceFolder = Annotated[
    Path | None, typer.Option(help="Folder for intermediate results. Default: below --out.")
]
DistillSamples = Annotated[
    int, typer.Option(min=1, help="Training samples that every candidate learns from.")
]
ScoreSamples = Annotated[
    int, typer.Option(min=2, help="Training samples that every op is scored on.")
]
Plans = Annotated[int, typer.Option(min=1, help="Diverse plans per budget.")]
EvaluateImages = Annotated[
    int, typer.Option(min=2, help="Training samples that the best plans are compared on.")
]
LearningRate = Annotated[float, typer.Option(min=0, help="Peak learning rate of finetuning.")]
SearchEvaluations = Annotated[
    int,
    typer.Option(
        min=1,
        help="Plans that a method other than scip may judge; gradient steps of snas.",
        metavar="N",
    ),
]
BatchSize = Annotated[int, typer.Option(min=2, help="Samples per step.")]
StudentTarget = Annotated[
    str | None,
    typer.Option(
        help="DEVICE[:RUNTIME][:PRECISION][:bN][:tN]. Default: what the student was compiled for."
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        help="Size of one input, such as 3x224x224; needed where neither the file nor the "
        "package gives inputs.",
        metavar="CxHxW",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Options that say what becomes a slot; a group (see `groups`)."""

    granularity: Annotated[
        str,
        typer.Option(
            help="block: a residual block is one slot. layer: each layer is.", metavar="WHICH"
        ),
    ] = "block"
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these modules become slots: glob patterns of their paths, such as "
            "'layer3.*'.",
            metavar="GLOB",
        ),
    ] = None
    skip: Annotated[
        list[str] | None,
        typer.Option(help="These modules stay as they are: glob patterns too.", metavar="GLOB"),
    ] = None

    def given(self) -> dict[str, Any]:
        """As lanac's functions take them."""
        return {
            "granularity": self.granularity,
            "only": separated(self.only),
            "skip": separated(self.skip),
        }


def separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of an option that may be repeated and whose values may hold commas."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def check_svg(path: Path | None) -> None:
    """Raises CommandError where no picture could be written, before any work is done."""
    if path is not None and path.suffix.lower() != ".svg":
        raise CommandError(f"--svg {str(path)!r}: expected the name of an .svg file to write")
    if path is not None and not path.parent.is_dir():
        raise CommandError(f"--svg {str(path)!r}: the folder {str(path.parent)!r} does not exist")


def write_svg(path: Path, picture: str) -> None:
    """Writes a picture whose path has been checked."""
    from lanac.workspace import disk_errors, write_atomically

    with disk_errors(path.parent):
        write_atomically(path, picture.encode())


def own_ops(files: Sequence[Path] | None) -> list[Family]:
    """The op families of the user's files, which are executed; a file given twice counts once.

    Raises:
        FamilyError: a file fails, or defines no family.
    """
    from lanac.errors import FamilyError
    from lanac.frontend.model_file import execute_file
    from lanac.ops.own import EXAMPLE, families_in

    families: list[Family] = []
    for path in {file.resolve(): file for file in files or ()}.values():
        name = f"lanac_user_ops_{zlib.crc32(str(path.resolve()).encode()):08x}"
        module = execute_file(path, name, what="op file", needs=EXAMPLE, error=FamilyError)
        families += families_in(module, path)
    return families
