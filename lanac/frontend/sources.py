"""Finds the teacher that a MODEL on the command line names: model.py, timm:NAME, torchvision:NAME."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import cast

from lanac.errors import SourceError, unknown_name
from lanac.frontend.model_file import load_model_file, load_untrained
from lanac.frontend.source import Source
from lanac.frontend.zoo import Zoo, load_to_compile, load_to_inspect, random_input

ZOOS = ("timm", "torchvision")
"""What may stand before a colon; each is one file `zoo_NAME.py`."""


def load_source(text: str, data: Path | None = None) -> Source:
    """The trained teacher with its data.

    Args:
        text: `model.py`, `timm:NAME` or `torchvision:NAME`, with `@FILE.safetensors` behind a name
            for weights of one's own.
        data: an image folder, for a network that comes without data.

    Raises:
        LanacError: there is no such network, or its weights or data cannot be used.
    """
    named = _by_name(text)
    if named is not None:
        return load_to_compile(*named, data)
    if data is not None:
        raise SourceError(
            f"--data is for timm: and torchvision: networks; {text} gives its own data: let its "
            "train_data() read the folder"
        )
    return load_model_file(Path(text))


def load_source_to_inspect(
    text: str, size: tuple[int, ...] | None = None, trained: bool = False
) -> Source:
    """The teacher with an example input: no labels, no trained weights unless asked for.

    Args:
        text: as for `load_source`.
        size: of the input without the batch, where nothing else gives it.
        trained: download the trained weights of a network by name.

    Raises:
        LanacError: there is no such network, or the shape of its input is unknown.
    """
    named = _by_name(text)
    if named is not None:
        return load_to_inspect(*named, trained, size)
    source = load_untrained(Path(text))
    gives_inputs = source.example_inputs is not None or source.train_data is not None
    if size is None and not gives_inputs:
        raise SourceError(
            f"{text} defines neither example_inputs() nor train_data(), so the shape of the "
            "network's input is unknown; define one of them, or give --input-size, such as "
            "3x224x224"
        )
    if size is not None and gives_inputs:
        function = "example_inputs" if source.example_inputs is not None else "train_data"
        raise SourceError(
            f"--input-size is for networks that give no inputs of their own; {text} defines "
            f"{function}(): change it there"
        )
    if size is None:
        return source
    return Source(source.name, source.model, example_inputs=random_input(size))


def parse_size(text: str) -> tuple[int, ...]:
    """Reads `3x224x224`.

    Raises:
        SourceError: malformed.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise SourceError(
            f"--input-size {text!r} is malformed; expected the dimensions of one sample without "
            "the batch, such as 3x224x224"
        )
    return tuple(int(part) for part in text.split("x"))


def _by_name(text: str) -> tuple[Zoo, str, Path | None] | None:
    """Package, name and weights of a network by name; None for a model file."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix in ZOOS:
        name, at, weights = rest.partition("@")
        if not name or (at and not weights):
            raise SourceError(
                f"MODEL {text!r} is incomplete; expected {prefix}:NAME or "
                f"{prefix}:NAME@FILE.safetensors"
            )
        zoo = cast(Zoo, importlib.import_module(f"lanac.frontend.zoo_{prefix}").ZOO)
        return zoo, name, Path(weights) if weights else None
    path = Path(text)
    if path.suffix == ".py" or path.exists():
        return None
    if colon:
        raise SourceError(unknown_name("kind of model", prefix, ZOOS) + " A file needs no prefix.")
    raise SourceError(
        f"MODEL {text!r} is no file; expected model.py, timm:NAME or torchvision:NAME, such as "
        f"timm:{path.name}"
    )
