"""Settings for all tests: one thread, reproducible examples, a tiny trained network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lanac.backends import isolation
from lanac.frontend.model_file import load_model_file

torch.set_num_threads(1)
settings.register_profile("lanac", deadline=None, derandomize=True)
settings.load_profile("lanac")

TINY = Path(__file__).parent / "tiny_teacher" / "model.py"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model file and its trained weights; not to be written."""
    folder = tmp_path_factory.mktemp("tiny")
    load_model_file(Path(shutil.copy(TINY, folder)))  # trains; keeps the weights beside the file
    return folder


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are timed in the test's own process: another one takes seconds to start."""
    monkeypatch.setattr(isolation, "new_bench", isolation.Local)
