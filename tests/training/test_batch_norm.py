from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lanac.training.batch_norm import batch_norms, current_statistics, re_estimate
from lanac.training.data import Batch


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 1),
        nn.BatchNorm2d(3, momentum=0.3),
        nn.Dropout(0.5),
        nn.BatchNorm2d(3, track_running_stats=False),
    )
    net[1].running_mean.fill_(5)
    return net


def buffers(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def test_only_norms_with_running_statistics_count() -> None:
    net = network()
    assert batch_norms(net) == [net[1]]


def test_current_statistics_normalise_by_the_batch_and_forget_it() -> None:
    net = network().eval()
    before = buffers(net)
    x = torch.randn(6, 2, 4, 4)
    other = copy.deepcopy(net)
    with current_statistics(net, other, net):
        y = net[1](net[0](x))
        assert not net[2].training  # dropout stays off
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-3)
    after = buffers(net)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert (net[1].training, net[1].track_running_stats) == (False, True)


def test_what_was_in_training_mode_is_so_again_even_after_an_error() -> None:
    net = network().train()
    with pytest.raises(KeyError), current_statistics(net):
        raise KeyError
    assert (net[1].training, net[1].track_running_stats) == (True, True)


def test_re_estimated_statistics_are_the_average_over_the_batches() -> None:
    net = network().train()
    batches = [torch.randn(size, 2, 4, 4) * size for size in (3, 5, 4)]
    re_estimate(net, (Batch((x,)) for x in batches))
    with torch.no_grad():
        features = [net[0](x) for x in batches]
    means = torch.stack([value.mean((0, 2, 3)) for value in features])
    variances = torch.stack([value.var((0, 2, 3), correction=1) for value in features])
    assert torch.allclose(net[1].running_mean, means.mean(0), atol=1e-5)
    assert torch.allclose(net[1].running_var, variances.mean(0), rtol=1e-4)
    assert net[1].momentum == 0.3
    assert not any(module.training for module in net.modules())


def test_without_batch_norm_nothing_runs() -> None:
    def never() -> Batch:
        raise AssertionError

    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Dropout()).train()
    re_estimate(net, (never() for _ in range(3)))
    assert not net.training
