from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.ir import Program, Slot, flatten_tensors, record_specs, verify_program
from lanac.ir.outputs import named_tensors
from lanac.training.data import Batch
from lanac.training.suffix import SuffixRunner

CPU = torch.device("cpu")


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


def skipping_program() -> tuple[Program, Batch]:
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


def same(one: Any, other: Any) -> bool:
    pairs = zip(flatten_tensors(one), flatten_tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_from_every_slot_with_its_own_op_it_is_the_whole_network() -> None:
    program, batch = skipping_program()
    expected = program.teacher(*batch.inputs)
    runner = SuffixRunner(program, CPU)
    seen = []
    for slot, run_from_here in runner.steps(batch):
        seen.append(slot.name)
        outputs = run_from_here(program.teacher_op(slot))
        assert same(outputs, expected)
        assert not outputs["main"].requires_grad
    assert seen == ["slot.a", "slot.b", "slot.c"]


OPS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(3, 3, 1),
    "identity": nn.Identity(),
    "in place": nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)),
}


@pytest.mark.parametrize("first", OPS)
@pytest.mark.parametrize("second", OPS)
def test_another_op_gives_the_rewritten_network_whatever_was_tried_before(
    first: str, second: str
) -> None:
    program, batch = skipping_program()
    inputs = [value.clone() for value in batch.inputs]
    for slot, run_from_here in SuffixRunner(program, CPU).steps(batch):
        for name in (first, second):
            student = program.rewrite({slot.name: OPS[name]})
            expected = student(*(value.clone() for value in inputs))
            assert same(run_from_here(OPS[name]), expected)
    assert all(torch.equal(a, b) for a, b in zip(batch.inputs, inputs, strict=True))


def test_batches_of_other_sizes() -> None:
    program, _ = skipping_program()
    runner = SuffixRunner(program, CPU)
    for count in (1, 7):
        batch = Batch((torch.randn(count, 3, 5, 5), torch.randn(count, 3, 5, 5)))
        for slot, run_from_here in runner.steps(batch):
            assert same(run_from_here(program.teacher_op(slot)), program.teacher(*batch.inputs))


@dataclass
class Found:
    main: Any
    more: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


def structured_program() -> tuple[Program, Batch]:
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


def test_outputs_have_the_structure_that_the_teacher_gives() -> None:
    program, batch = structured_program()
    op = nn.Conv2d(3, 3, 1)
    expected = program.rewrite({"conv": op})(*batch.inputs)
    for _, run_from_here in SuffixRunner(program, CPU).steps(batch):
        outputs = run_from_here(op)
        values = [outputs, outputs["list"], outputs["found"].main, outputs["found"].more]
        assert [type(value) for value in values] == [dict, list, dict, Pair]
        assert type(outputs["found"].more.second) is list
        outputs["list"].append(1)  # Python's own containers can be changed
        ours, theirs = named_tensors(outputs), named_tensors(expected)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
