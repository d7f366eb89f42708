"""A small task for the tests of training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lanac.training.data import Data
from lanac.training.task import Task

MakeTask = Callable[..., Task]


@pytest.fixture(scope="session")
def make_task() -> MakeTask:
    """Images (N, 3, 6, 6) of three classes that a small network can learn."""

    def make(labelled: bool = True, count: int = 26) -> Task:
        generator = torch.Generator().manual_seed(4)
        x = torch.randn(count, 3, 6, 6, generator=generator)
        y = x.mean((2, 3)).argmax(1)
        source = (x, y) if labelled else (x,)
        data = Data.of(source, "train_data()")
        train, held_out = data.split(6, 0)
        return Task(train, held_out, held_out, None, None, labelled)

    return make
