"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

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


def separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of an option that may be repeated and whose values may hold commas."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
