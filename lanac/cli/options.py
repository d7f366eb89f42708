"""Options that several commands share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of an option that may be repeated and whose values may hold commas."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


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
