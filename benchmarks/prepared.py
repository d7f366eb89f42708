"""What benchmarks of a prepared teacher have in common: options, and the way to the scores."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "fashion_mnist")]

from lanac.beginning import begin  # noqa: E402 - the paths come first
from lanac.compilation import Compilation  # noqa: E402
from lanac.compiler import preparation  # noqa: E402
from lanac.frontend.model_file import load_model_file  # noqa: E402
from lanac.ops.pool import parse_pool  # noqa: E402
from lanac.passes import run_passes  # noqa: E402
from lanac.settings import Settings  # noqa: E402
from lanac.targets import parse_budgets  # noqa: E402


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that say what is prepared; the defaults are those of the example."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "examples/fashion_mnist/model.py")
    parser.add_argument("--distill-samples", type=int, default=4096)
    parser.add_argument("--score-samples", type=int, default=1024)
    parser.add_argument("--pool", default="default")
    return parser


def prepared(arguments: argparse.Namespace, budgets: str) -> Compilation:
    """The teacher with its scores, on one thread; what a run has left in the workspace is taken."""
    torch.set_num_threads(1)
    file = load_model_file(arguments.model)
    settings = Settings(
        distill_samples=arguments.distill_samples, score_samples=arguments.score_samples
    )
    begun = begin(
        file.model, train_data=file.train_data, val_data=file.val_data, out=arguments.out,
        budget=budgets,
    )  # fmt: skip
    members = parse_pool(arguments.pool)
    return run_passes(begun, preparation(members, parse_budgets(budgets), settings))
