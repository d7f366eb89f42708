from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lanac.ir import Program, flatten_tensors
from lanac.ir.outputs import named_tensors
from lanac.training.data import Batch
from lanac.training.suffix import SuffixRunner

CPU = torch.device("cpu")


def same(one: Any, other: Any) -> bool:
    pairs = zip(flatten_tensors(one), flatten_tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_from_every_slot_with_its_own_op_it_is_the_whole_network(
    skipping: tuple[Program, Batch],
) -> None:
    program, batch = skipping
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
    first: str, second: str, skipping: tuple[Program, Batch]
) -> None:
    program, batch = skipping
    inputs = [value.clone() for value in batch.inputs]
    for slot, run_from_here in SuffixRunner(program, CPU).steps(batch):
        for name in (first, second):
            student = program.rewrite({slot.name: OPS[name]})
            expected = student(*(value.clone() for value in inputs))
            assert same(run_from_here(OPS[name]), expected)
    assert all(torch.equal(a, b) for a, b in zip(batch.inputs, inputs, strict=True))


def test_batches_of_other_sizes(skipping: tuple[Program, Batch]) -> None:
    program, _ = skipping
    runner = SuffixRunner(program, CPU)
    for count in (1, 7):
        batch = Batch((torch.randn(count, 3, 5, 5), torch.randn(count, 3, 5, 5)))
        for slot, run_from_here in runner.steps(batch):
            assert same(run_from_here(program.teacher_op(slot)), program.teacher(*batch.inputs))


def test_outputs_have_the_structure_that_the_teacher_gives(
    structured: tuple[Program, Batch],
) -> None:
    program, batch = structured
    op = nn.Conv2d(3, 3, 1)
    expected = program.rewrite({"conv": op})(*batch.inputs)
    for _, run_from_here in SuffixRunner(program, CPU).steps(batch):
        outputs = run_from_here(op)
        values = [outputs, outputs["list"], outputs["found"].main, outputs["found"].more]
        kinds = [type(value).__name__ for value in values]
        assert kinds == ["dict", "list", "dict", "Pair"]
        assert type(outputs["found"].more.second) is list
        outputs["list"].append(1)  # Python's own containers can be changed
        ours, theirs = named_tensors(outputs), named_tensors(expected)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
