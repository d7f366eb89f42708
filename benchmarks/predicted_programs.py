"""Programs of timm's networks with their pools, as the pipeline makes them, without data."""

from __future__ import annotations

import warnings

import torch

from lanac.frontend.build import build_program
from lanac.ir import OpSpec, Program
from lanac.ops.pool import enumerate_slot, parse_pool


def traced(
    network: str, pool: str, size: int | None = None
) -> tuple[Program, dict[str, tuple[OpSpec, ...]]]:
    """A program at the network's own input size, and its pool.

    Args:
        network: of timm.
        pool: as for `--pool`.
        size: pixels of a side; default: the network's test size.
    """
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(network).eval()
        config = timm.data.resolve_data_config({}, model=model, use_test_size=True)
    side = size or config["input_size"][-1]
    program = build_program(model, (torch.zeros(1, 3, side, side),))
    members = parse_pool(pool)
    return program, {slot.name: enumerate_slot(program, slot, members) for slot in program.slots}
