"""Tracing and partition, beside one inference of the same network.

    python benchmarks/tracing.py                                # EfficientNet-B6, one sample
    python benchmarks/tracing.py --samples 2 resnet50 vit_small_patch16_224

Inference, and tracing with partition and comparison, take turns; medians in seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import timm
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from lanac.frontend.build import build_program  # noqa: E402


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@torch.no_grad()
def compare(name: str, samples: int, rounds: int) -> str:
    """One line: how long inference takes, and tracing with partition and comparison."""
    model = timm.create_model(name).eval()
    config = timm.data.resolve_model_data_config(model)
    x = torch.randn(samples, *config["input_size"])
    times = [
        (seconds(lambda: model(x)), seconds(lambda: build_program(model, (x,))))
        for _ in range(rounds)
    ]
    inference, building = (median(column) for column in zip(*times, strict=True))
    return (
        f"{name} {tuple(x.shape)}: inference {inference:.2f} s, tracing and partition "
        f"{building:.2f} s, {building / inference:.1f} times as long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["efficientnet_b6"])
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    build_program(timm.create_model("resnet10t"), (torch.randn(2, 3, 64, 64),))  # imports
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, timm {timm.__version__}")
    for name in arguments.networks:
        print(compare(name, arguments.samples, arguments.rounds))


if __name__ == "__main__":
    main()
