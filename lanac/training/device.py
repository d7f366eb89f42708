"""Where training runs, and on how many threads."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from lanac.errors import TrainingError

Module = TypeVar("Module", bound=nn.Module)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU.

    Raises:
        TrainingError: a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    if name not in ("cpu", "cuda"):
        raise TrainingError(f"--device {name!r}: expected auto, cpu or cuda")
    return torch.device(name)


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Lets torch take so many threads of the CPU, and as many as before afterwards; None changes nothing.

    Raises:
        TrainingError: there is no such number of threads.
    """
    if count is None:
        yield
        return
    if count < 1:
        raise TrainingError(f"--threads {count}: expected at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_device(module: Module, device: torch.device) -> Module:
    """The module itself where it is there already, else a copy: the teacher's weights stay put."""
    if device.type == "cpu":
        return module
    return copy.deepcopy(module).to(device)
