"""Differentiable search: every slot adds up its ops with shares that are drawn and learned.

Source: Xie et al., *SNAS: Stochastic Neural Architecture Search* (ICLR 2019). Shares are samples of a
relaxed categorical distribution (Gumbel-softmax) whose temperature falls; the expected cost above a
limit is a penalty that grows. The ops keep the weights that they were distilled to and share them
among all plans; only the distribution learns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import RelaxedOneHotCategorical

from lanac.search.base import Judge, SearchOptions
from lanac.search.space import Choices, Space

_HOT, _COLD = 2.0, 0.2
"""Temperature at the start and at the end."""
_RATE = 0.1
"""Adam's learning rate of the logits."""
_PENALTY, _GROWTH = 2.0, 10.0
"""Weight of the expected excess at the start, in units of the first loss, and how it grows."""
_LEAST = -60.0
"""Log-probabilities below count as this."""


def search(space: Space, judge: Judge, options: SearchOptions, seed: int) -> list[Choices]:
    """The likeliest plans, under the budget, of the distribution that was learned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        logits = learn(space, judge, options.evaluations)
    # The likeliest plans are a selection problem of their own, with log-probabilities as scores.
    scores = [(-row.log_softmax(0).clamp_min(_LEAST)).tolist() for row in logits]
    return space.likeliest(scores, options.keep, seed)


def learn(space: Space, judge: Judge, steps: int) -> list[Tensor]:
    """The logits of each slot's ops after so many steps, -inf where an op is not allowed."""
    masks = [_mask(space, slot) for slot in range(space.slots)]
    shares = [torch.from_numpy(space.shares(slot)).float() for slot in range(space.slots)]
    logits = [torch.zeros(len(mask), requires_grad=True) for mask in masks]
    optimizer = torch.optim.Adam(logits, _RATE, betas=(0.5, 0.999))
    unit = 0.0
    for step in range(steps):
        done = step / max(1, steps - 1)
        open_logits = [row + mask for row, mask in zip(logits, masks, strict=True)]
        temperature = torch.tensor(_HOT * (_COLD / _HOT) ** done)
        drawn = [_draw(row, temperature) for row in open_logits]
        loss, slopes = judge.mixture([sample.detach() for sample in drawn], step)
        if not unit and math.isfinite(loss):
            unit = max(abs(loss), 1e-6)
        weight = _PENALTY * _GROWTH**done * unit
        optimizer.zero_grad()
        torch.autograd.backward(
            [*drawn, weight * _excess(open_logits, shares)],
            [*(torch.nan_to_num(slope, 0.0, 0.0, 0.0) for slope in slopes), torch.tensor(1.0)],
        )
        optimizer.step()
    return [(row + mask).detach() for row, mask in zip(logits, masks, strict=True)]


def _draw(logits: Tensor, temperature: Tensor) -> Tensor:
    """Shares that add up to 1, differentiable by the logits; exactly 0 where those are -inf."""
    distribution = RelaxedOneHotCategorical(temperature, logits=logits, validate_args=False)
    return torch.as_tensor(distribution.rsample())


def _excess(logits: list[Tensor], shares: list[Tensor]) -> Tensor:
    """By how much the expected costs exceed the limits, as shares of these; summed over limits."""
    expected = torch.stack(
        [share @ row.softmax(0) for row, share in zip(logits, shares, strict=True)]
    ).sum(0)
    return (expected - 1).clamp_min(0).sum()


def _mask(space: Space, slot: int) -> Tensor:
    mask = torch.full((len(space.problem.ops[slot]),), -torch.inf)
    mask[torch.from_numpy(space.allowed[slot])] = 0.0
    return mask
