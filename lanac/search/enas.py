"""REINFORCE: a recurrent controller draws plans op by op and is rewarded for a low loss.

Source: Pham et al., *Efficient Neural Architecture Search via Parameter Sharing* (ICML 2018), and
Zoph and Le (2017) for the controller. The ops keep the weights that they were distilled to and share
them among all plans; only the controller learns. Ops that leave too little of the budget for the slots
behind are masked, so that every plan it draws keeps the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from lanac.search.base import Judge, Ledger, SearchOptions
from lanac.search.space import Choices, Space

_HIDDEN = 32
_RATE = 0.01
"""Adam's learning rate: hundreds of plans are judged here, not the paper's hundred thousands."""
_GROUP = 8
"""Plans per update."""
_ENTROPY = 0.01
"""Weight of the entropy beside the advantage, whose deviation is 1."""
_DECAY = 0.8
"""Of the running mean and deviation of the reward."""
_LARGEST = 3.0
"""Advantages are cut to this many deviations: one broken plan must not undo what was learned."""
_CLOSED = -1e9
"""Logit of an op that is not open."""
_IDLE = 20
"""Updates in a row without a new plan, after which the search ends."""


def search(space: Space, judge: Judge, options: SearchOptions, seed: int) -> list[Choices]:
    """The best plans that the controller has drawn while it learned."""
    ledger = Ledger(judge, options.evaluations)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controller = Controller(space)
        optimizer = torch.optim.Adam(controller.parameters(), _RATE)
        baseline = _Baseline()
        idle = 0
        while ledger.left > 0 and idle < _IDLE:
            plans = [_mended(space, plan, seed) for plan in controller.draw(_GROUP)]
            new = [plan for plan in dict.fromkeys(plans) if not ledger.knows(plan)]
            idle = 0 if new else idle + 1
            late = set(new[ledger.left :])
            plans = [plan for plan in plans if plan not in late]
            advantages = torch.tensor(baseline.advantages(ledger.losses(plans)))
            log_probabilities, entropies = controller(plans)
            optimizer.zero_grad()
            torch.autograd.backward(-(advantages * log_probabilities + _ENTROPY * entropies).mean())
            optimizer.step()
    return ledger.best(options.keep)


def _mended(space: Space, plan: Choices, seed: int) -> Choices:
    # Under several limits at once the mask can let a prefix through that has no good end.
    return plan if space.allows(plan) else space.nearest(plan, seed)


class Controller(nn.Module):
    """Draws the ops of plans one after the other, each given those before it.

    Args:
        space: the plans; says which ops are open behind a prefix.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space
        sizes = [len(pool) for pool in space.problem.ops]
        self._first = np.cumsum([1, *sizes[:-1]]).tolist()  # word 0 stands before the first op
        self.words = nn.Embedding(1 + sum(sizes), _HIDDEN)
        self.cell = nn.LSTMCell(_HIDDEN, _HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(_HIDDEN, size) for size in sizes)
        for value in self.parameters():
            nn.init.uniform_(value, -0.1, 0.1)

    @torch.no_grad()
    def draw(self, count: int) -> list[Choices]:
        """So many plans; some may be alike."""
        return self._walk(count, None)[0]

    def forward(self, plans: Sequence[Choices]) -> tuple[Tensor, Tensor]:
        """The log-probability of each plan and the mean entropy along it, (plans,) each."""
        _, log_probabilities, entropies = self._walk(len(plans), plans)
        return log_probabilities, entropies

    def _walk(
        self, count: int, given: Sequence[Choices] | None
    ) -> tuple[list[Choices], Tensor, Tensor]:
        """Along given plans, or along ones that are drawn."""
        space = self._space
        state: tuple[Tensor, Tensor] | None = None
        words, used = torch.zeros(count, dtype=torch.long), [space.nothing] * count
        columns: list[list[int]] = []
        log_probabilities = entropies = torch.zeros(count)
        for slot, head in enumerate(self.heads):
            state = self.cell(self.words(words), state)
            is_open = torch.from_numpy(np.stack([space.open_ops(slot, taken) for taken in used]))
            is_open |= ~is_open.any(1, keepdim=True)  # nothing fits any more: `nearest` mends it
            # A finite stand-in for -inf: 0 times infinity would spoil the gradient of the entropy.
            logits = head(state[0]).masked_fill(~is_open, _CLOSED)
            distribution: Any = Categorical(  # torch's distributions have no types
                logits=logits, validate_args=False
            )
            fixed = None if given is None else torch.tensor([plan[slot] for plan in given])
            ops = distribution.sample() if fixed is None else fixed
            log_probabilities = log_probabilities + distribution.log_prob(ops)
            entropies = entropies + distribution.entropy() / space.slots
            columns.append(ops.tolist())
            used = [
                space.take(slot, op, taken) for op, taken in zip(columns[-1], used, strict=True)
            ]
            words = self._first[slot] + ops
        return list(zip(*columns, strict=True)), log_probabilities, entropies


@dataclass
class _Baseline:
    """A running mean of the reward, and how far rewards are from it."""

    mean: float = math.nan
    variance: float = 0.0

    def advantages(self, losses: list[float]) -> list[float]:
        """How much better than usual each plan is, in deviations."""
        finite = [loss for loss in losses if math.isfinite(loss)]
        worst = max(finite, default=0.0)
        rewards = np.array([-loss if math.isfinite(loss) else -worst for loss in losses])
        mean, variance = float(rewards.mean()), float(rewards.var())
        first = math.isnan(self.mean)
        self.mean = mean if first else _DECAY * self.mean + (1 - _DECAY) * mean
        self.variance = variance if first else _DECAY * self.variance + (1 - _DECAY) * variance
        deviation = math.sqrt(self.variance) or 1.0
        shares: list[float] = ((rewards - self.mean) / deviation).clip(-_LARGEST, _LARGEST).tolist()
        return shares
