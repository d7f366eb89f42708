"""The tiny network, prepared once for all comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

from lanac import Compilation, Settings, begin, preparation, run_passes
from lanac.frontend.model_file import load_model_file
from lanac.ops.pool import parse_pool
from lanac.settings import ComparisonSettings

SMALL = Settings(
    distill_samples=32, score_samples=64, plans=4, search_evaluations=10, evaluate_images=64,
    finetune_epochs=1, batch_size=32,
)  # fmt: skip


@pytest.fixture(scope="session")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Compilation:
    """With scores; its workspace grows, as a user's does."""
    file = load_model_file(trained / "model.py")
    begun = begin(
        file.model,
        train_data=file.train_data,
        val_data=file.val_data,
        budget="flops=0.5x",
        out=tmp_path_factory.mktemp("compared"),
    )
    members = parse_pool("identity,slim(w=0.5),slim(w=0.25)")
    return run_passes(begun, preparation(members, [begun.budget], SMALL))


@pytest.fixture
def settings() -> Settings:
    return SMALL


@pytest.fixture
def little() -> ComparisonSettings:
    return ComparisonSettings(
        search_images=64, finetune_samples=64, random_plans=20, ranking_plans=12, repeats=2,
        pool_sizes=(2, 3),
    )  # fmt: skip
