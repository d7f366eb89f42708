"""Options that several commands share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
Granularity = Annotated[
    str,
    typer.Option(
        help="block: a residual block is one slot. layer: each layer is.", metavar="WHICH"
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Only these modules become slots: glob patterns of their paths, such as 'layer3.*'.",
        metavar="GLOB",
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="These modules stay as they are: glob patterns too.", metavar="GLOB"),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        help="Images for timm: and torchvision: models: DIR/train/CLASS/*.jpg and "
        "DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg.",
        metavar="DIR",
    ),
]
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
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for the students. Default: the model's name and .lanac."),
]
Pool = Annotated[
    str,
    typer.Option(
        help="default, skip, inherit, paper, families (also your own) and single ops, separated by "
        "commas."
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        help="The op that a slot takes, such as 'layer1.0=slim(w=0.5)'.", metavar="SLOT=OP"
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="These slots keep the teacher's op: glob patterns.", metavar="GLOB"),
]
MaxChanged = Annotated[
    int | None, typer.Option(help="At most so many slots take another op.", metavar="N")
]
Anchors = Annotated[
    list[str] | None,
    typer.Option(
        help="A network that was measured on the target, in ms for the whole batch, such as "
        "timm:resnet50=12.3ms. One or a few make predicted latencies much better.",
        metavar="MODEL=MS",
    ),
]
Costs = Annotated[
    Path | None,
    typer.Option(
        help="Latencies from a cost table that lanac measure wrote, here or on another machine.",
        metavar="FILE",
    ),
]
Missing = Annotated[
    str,
    typer.Option(
        help="Ops that the cost table lacks: refuse, drop them, or predict them.", metavar="WHAT"
    ),
]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Device = Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda.")]
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
