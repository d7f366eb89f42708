from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace
from lanac.training.batch_norm import current_statistics
from lanac.training.capture import SlotCapture, collect_inputs
from lanac.training.data import Batch

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True)),
    ).eval()


def test_what_enters_and_leaves_every_slot() -> None:
    net = network()
    program = partition(trace(net, (torch.zeros(2, 3, 8, 8),)))
    capture = SlotCapture(program, CPU)
    for size in (4, 3):
        x = torch.randn(size, 3, 8, 8)
        features = capture.run(Batch((x,)))
        assert list(features) == [slot.name for slot in program.slots]
        entered = x
        for slot in program.slots:
            before, after = features[slot.name]
            assert torch.equal(before, entered)
            assert torch.equal(after, program.teacher_op(slot)(entered))
            assert not after.requires_grad
            entered = after
        assert torch.equal(capture.outputs, net(x))
        assert capture.features is features


def test_no_hook_stays_behind() -> None:
    net = network()
    program = partition(trace(net, (torch.zeros(2, 3, 8, 8),)))
    capture = SlotCapture(program, CPU)
    capture.run(Batch((torch.randn(2, 3, 8, 8),)))
    assert not any(module._forward_hooks for module in capture._split.modules())


def test_the_teachers_statistics_stay_as_they_are() -> None:
    net = network()
    before = net[1].running_mean.clone()
    program = partition(trace(net, (torch.zeros(2, 3, 8, 8),)))
    capture = SlotCapture(program, CPU)
    with current_statistics(net):
        capture.run(Batch((torch.randn(2, 3, 8, 8),)))
    assert torch.equal(net[1].running_mean, before)


class AddsInto(nn.Module):
    """A residual block that writes its sum into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += self.conv(x)
        return x


def test_features_are_what_enters_even_where_a_slot_writes_into_its_input() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), AddsInto(), AddsInto()).eval()
    program = partition(trace(net, (torch.zeros(2, 3, 8, 8),)))
    features = SlotCapture(program, CPU).run(Batch((torch.randn(2, 3, 8, 8),)))
    assert len(features) == 3
    for slot in program.slots:
        before, after = features[slot.name]
        assert torch.equal(after, program.teacher_op(slot)(before.clone()))


class Counting(SlotCapture):
    """Counts the forward passes of the teacher."""

    runs = 0

    def run(self, batch):
        self.runs += 1
        return super().run(batch)


@pytest.mark.parametrize(
    ("slot_bytes", "samples", "runs"),
    # A sample that enters is 3 * 8 * 8 floats (768 bytes), between the slots 4 * 6 * 6 (576).
    [(1 << 20, (30, 30), 8), (12000, (15, 20), 5), (1, (8, 8), 2)],
)
def test_inputs_over_several_batches_within_a_bound(slot_bytes, samples, runs) -> None:
    net = network()
    program = partition(trace(net, (torch.zeros(2, 3, 8, 8),)))
    first, second = (slot.name for slot in program.slots)
    x = torch.randn(30, 3, 8, 8)
    capture = Counting(program, CPU)
    batches = [Batch((part,)) for part in x.split(4)]
    found = collect_inputs(capture, batches, [first, second], slot_bytes)
    assert capture.runs == runs
    expected = [dict(capture.run(Batch((x,))))[name][0] for name in (first, second)]
    for name, count, entered in zip((first, second), samples, expected, strict=True):
        assert torch.allclose(found[name], entered[:count], atol=1e-6)
        assert len(found[name]) == count
        assert found[name].untyped_storage().nbytes() == found[name].nbytes


def test_only_the_slots_that_are_asked_for_are_kept() -> None:
    program = partition(trace(network(), (torch.zeros(2, 3, 8, 8),)))
    name = program.slots[1].name
    capture = SlotCapture(program, CPU)
    found = collect_inputs(capture, [Batch((torch.randn(2, 3, 8, 8),))], [name], 1 << 20)
    assert list(found) == [name]
    assert capture.features == {}
