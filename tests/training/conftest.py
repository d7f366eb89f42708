"""A small task for the tests of training, and networks that are no chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.ir import Program, Slot, record_specs, verify_program
from lanac.training.data import Batch, Data
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


class Skipping(nn.Module):
    """Three slots; the first one's output is needed again behind the last, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3)
        )
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        a = self.a(x + y)
        size = a.size(0)
        b = self.b(a)
        c = self.c(b * self.scale)
        c += a
        return {"main": c.view(size, -1), "more": (a, [b.mean(dim=(2, 3), keepdim=True)])}


@pytest.fixture
def skipping() -> tuple[Program, Batch]:
    """Three slots with long skips, two inputs and nested outputs; two samples."""
    torch.manual_seed(0)
    teacher = fx.symbolic_trace(Skipping().eval()).eval()
    x = torch.randn(2, 3, 5, 5)
    specs, _ = record_specs(teacher, (x, x))
    spec = specs["x"]
    slots = tuple(
        Slot(f"slot.{name}", (f"{name}_0", f"{name}_1"), entry, spec, spec)
        for name, entry in (("a", "add"), ("b", "a_1"), ("c", "mul"))
    )
    program = Program(teacher, slots, specs)
    inputs = (x, torch.randn(2, 3, 5, 5))
    verify_program(program, inputs)
    return program, Batch(inputs)


@dataclass
class Found:
    main: Any
    more: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


@pytest.fixture
def structured() -> tuple[Program, Batch]:
    """One slot; its output stands in every kind of container."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    conv = graph.call_module("conv", (x,))
    relu = graph.call_function(torch.relu, (conv,))
    pair = graph.call_function(Pair, (conv, [relu]))
    found = graph.call_function(Found, (), {"main": {"relu": relu}, "more": pair})
    graph.output({"found": found, "list": [conv, (relu, None)]})
    torch.manual_seed(0)
    teacher = fx.GraphModule({"conv": nn.Conv2d(3, 3, 1)}, graph).eval()
    inputs = (torch.randn(2, 3, 5, 5),)
    specs, _ = record_specs(teacher, inputs)
    slot = Slot("conv", ("conv",), "x", specs["x"], specs["conv"])
    return Program(teacher, (slot,), specs), Batch(inputs)
