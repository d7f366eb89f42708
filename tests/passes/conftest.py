"""Compilations of the tiny network, as far as a test needs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanac import Compilation, Instruments, begin, run_passes
from lanac.frontend.model_file import load_model_file
from lanac.ops.pool import parse_pool
from lanac.passes import EnumeratePool

Begin = Callable[..., Compilation]


class Recorder(Instruments):
    """Remembers what passes say."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)


@pytest.fixture
def start(trained: Path, tmp_path: Path) -> Begin:
    """Begins a compilation and lists its pool."""

    def make(budget: str, pool: str, out: str = "out", **options: Any) -> Compilation:
        file = load_model_file(trained / "model.py")
        begun = begin(
            file.model,
            train_data=file.train_data,
            budget=budget,
            out=tmp_path / out,
            instruments=Recorder(),
            **options,
        )
        return run_passes(begun, [EnumeratePool(parse_pool(pool))])

    return make
