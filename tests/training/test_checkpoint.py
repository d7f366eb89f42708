from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lanac.training import checkpoint
from lanac.training.checkpoint import (
    CheckpointClock,
    pack_training,
    unpack_training,
    with_prefix,
    without_prefix,
)


def training(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    return net, torch.optim.AdamW(net.parameters(), lr=0.01)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("before", [0, 1, 3])
def test_restored_training_goes_on_bit_for_bit(before: int) -> None:
    net, optimizer = training(0)
    for number in range(before):
        step(net, optimizer, number)
    packed = {k: v.clone() for k, v in pack_training(net, optimizer).items()}
    other, other_optimizer = training(1)
    step(other, other_optimizer, 99)
    if before == 0:
        other, other_optimizer = training(1)
    unpack_training(packed, other, other_optimizer)
    for number in range(before, before + 3):
        step(net, optimizer, number)
        step(other, other_optimizer, number)
    expected, actual = net.state_dict(), other.state_dict()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_what_has_nothing_to_learn_keeps_its_buffers() -> None:
    net, other = nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, affine=False)
    net(torch.randn(8, 4))
    unpack_training(pack_training(net, None), other, None)
    assert torch.equal(other.get_buffer("running_mean"), net.get_buffer("running_mean"))


def test_a_checkpoint_holds_nothing_but_tensors() -> None:
    net, optimizer = training(0)
    step(net, optimizer, 0)
    packed = pack_training(net, optimizer)
    assert all(isinstance(value, torch.Tensor) for value in packed.values())
    assert not any(value.requires_grad for value in packed.values())
    assert {name.split(".")[0] for name in packed} == {"model", "optimizer"}


def test_prefixes() -> None:
    tensors = {"a": torch.zeros(1), "best.b": torch.ones(1)}
    prefixed = with_prefix(tensors, "best.")
    assert list(prefixed) == ["best.a", "best.best.b"]
    assert without_prefix({**prefixed, "other": torch.zeros(1)}, "best.") == tensors


def test_the_clock_spends_at_most_a_twentieth_on_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    fake: Any = lambda: now[0]  # noqa: E731 - a clock
    monkeypatch.setattr(checkpoint.time, "monotonic", fake)
    clock = CheckpointClock(60)
    now[0] = 1059.9
    assert not clock.is_due()
    now[0] = 1060
    assert clock.is_due()
    now[0] = 1061  # one second of writing: the usual minute
    clock.written(1060)
    assert not clock.is_due()
    now[0] = 1121
    assert clock.is_due()
    now[0] = 1131  # ten seconds of writing: two hundred seconds of rest
    clock.written(1121)
    now[0] = 1330.9
    assert not clock.is_due()
    now[0] = 1331
    assert clock.is_due()
