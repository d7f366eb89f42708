"""Networks that run what they have in common once, against each of them alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanac.ir import Program, flatten_tensors, named_tensors
from lanac.training import prefixes
from lanac.training.data import Batch
from lanac.training.prefixes import PrefixRunner, slot_runs

CPU = torch.device("cpu")
OPS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(3, 3, 1),
    "identity": nn.Identity(),
    "in place": nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)),
}


def same(one: Any, other: Any) -> bool:
    pairs = zip(flatten_tensors(one), flatten_tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Counting(nn.Module):
    """Counts how often an op runs."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op, self.runs = op, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.op(x)


def test_every_network_computes_what_it_computes_alone(skipping: tuple[Program, Batch]) -> None:
    """Ops in place and a network that is no chain included; each slot has four ops."""
    program, batch = skipping
    runner = PrefixRunner(program, CPU)
    inputs = [value.clone() for value in batch.inputs]
    choices = [(own, *OPS.values()) for own in runner.own]
    networks = list(itertools.product(*choices))
    seen = []
    for places, outputs in runner.outputs(batch, networks):
        seen += places
        for place in places:
            ops = zip(program.slots, networks[place], strict=True)
            student = program.rewrite({slot.name: op for slot, op in ops})
            assert same(outputs, student(*(value.clone() for value in inputs)))
        assert not outputs["main"].requires_grad
    assert sorted(seen) == list(range(len(networks)))
    assert all(torch.equal(a, b) for a, b in zip(batch.inputs, inputs, strict=True))


def test_common_beginnings_run_once_and_equal_networks_too(skipping: tuple[Program, Batch]) -> None:
    program, batch = skipping
    runner = PrefixRunner(program, CPU)
    first, second, third = ([Counting(nn.Identity()) for _ in range(2)] for _ in range(3))
    networks = [
        (first[0], second[0], third[0]),
        (first[0], second[1], third[0]),
        (first[1], second[0], third[0]),
        (first[0], second[0], third[1]),
        (first[0], second[0], third[0]),
    ]
    found = list(runner.outputs(batch, networks))
    assert sorted(places for places, _ in found) == [[0, 4], [1], [2], [3]]
    assert [op.runs for op in first] == [1, 1]
    assert [op.runs for op in second] == [2, 1]
    assert [op.runs for op in third] == [3, 1]
    assert slot_runs(networks) == (9, 15)


def test_no_network_is_no_work(skipping: tuple[Program, Batch]) -> None:
    program, batch = skipping
    assert list(PrefixRunner(program, CPU).outputs(batch, [])) == []
    assert slot_runs([]) == (0, 0)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_few_values_are_kept(
    count: int, skipping: tuple[Program, Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most log2(K) copies are alive at once, whatever the order of the networks."""
    program, batch = skipping
    runner = PrefixRunner(program, CPU)
    ops = [nn.Identity() for _ in range(4)]
    networks = list(itertools.product(ops, repeat=3))[:count]
    alive: list[int] = []
    walk = PrefixRunner._walk

    def counted(self: PrefixRunner, *arguments: Any) -> Any:
        alive.append(len(arguments[-1]))
        nested.append(len(alive))
        yield from walk(self, *arguments)
        alive.pop()

    nested: list[int] = []
    monkeypatch.setattr(prefixes.PrefixRunner, "_walk", counted)
    assert len(list(runner.outputs(batch, networks))) == count
    assert max(nested) <= 1 + count.bit_length()


def test_outputs_keep_the_structure_that_the_teacher_gives(
    structured: tuple[Program, Batch],
) -> None:
    program, batch = structured
    op = nn.Conv2d(3, 3, 1)
    runner = PrefixRunner(program, CPU)
    expected = [program.teacher(*batch.inputs), program.rewrite({"conv": op})(*batch.inputs)]
    for places, outputs in runner.outputs(batch, [runner.own, (op,)]):
        ours, theirs = named_tensors(outputs), named_tensors(expected[places[0]])
        assert type(outputs) is dict
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_batches_of_other_sizes(skipping: tuple[Program, Batch]) -> None:
    program, _ = skipping
    runner = PrefixRunner(program, CPU)
    for size in (1, 5):
        batch = Batch((torch.randn(size, 3, 5, 5), torch.randn(size, 3, 5, 5)))
        [(_, outputs)] = runner.outputs(batch, [runner.own])
        assert same(outputs, program.teacher(*batch.inputs))
