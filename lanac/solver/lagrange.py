"""Lower bounds by Lagrangian relaxation: which ops a good plan cannot contain.

With multipliers m >= 0 on the knapsacks (scaled to sum_i w_i <= 1) every plan has
    regret >= sum_i min_j (regret_ij + m . w_ij) - sum(m),
and a plan that contains op j of slot i at least the same with that op in place of the minimum.
Any m gives a valid bound, and constraints beyond the knapsacks can only raise the regret.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lanac.solver.problem import Pair
from lanac.solver.reduce import Reduced

Floats = NDArray[np.float64]

_ROUNDS = 4  # passes over the multipliers; one is enough for one knapsack
_DOUBLINGS = 40
_HALVINGS = 50
_MARGIN = 1e-9  # relative, far above the rounding of these sums


def op_bounds(reduced: Reduced) -> dict[Pair, float]:
    """For each allowed (slot, op) a lower bound on the regret of every plan that contains it.

    Args:
        reduced: the problem; at least one op allowed in each slot.

    Returns:
        Bounds of at least the op's own regret, less a margin for rounding; 1 is `Reduced.top`.
    """
    ops = flat_ops(reduced)
    return dict(zip(ops.pairs, lower_bounds(ops)[0].tolist(), strict=True))


@dataclass(frozen=True)
class FlatOps:
    """The allowed ops, slot after slot.

    Attributes:
        pairs: (slot, op) of each.
        slot: slot of each, ascending.
        regrets: of each, at least 0; 1 is `Reduced.top`.
        weights: knapsacks x ops, each with a slack of 1; without those that no choice can break.
    """

    pairs: list[Pair]
    slot: NDArray[np.int64]
    regrets: Floats
    weights: Floats


def flat_ops(reduced: Reduced) -> FlatOps:
    """The allowed ops; regrets of at most 1."""
    top = reduced.top
    pairs = [(slot, op) for slot, pool in enumerate(reduced.allowed) for op in pool]
    weights = [
        np.array([knapsack.excess[slot][op] / knapsack.slack for slot, op in pairs])
        for knapsack in reduced.knapsacks
        if knapsack.slack > 0
    ]
    return FlatOps(
        pairs,
        np.array([slot for slot, _ in pairs]),
        np.array([reduced.regrets[slot][op] / top for slot, op in pairs]),
        np.array(weights).reshape(-1, len(pairs)),
    )


def lower_bounds(ops: FlatOps) -> tuple[Floats, Floats]:
    """The lower bound of `op_bounds` for each op, and the multipliers of the knapsacks."""
    starts = np.flatnonzero(np.diff(ops.slot, prepend=-1))
    prices = np.array(_best_prices(ops.regrets, list(ops.weights), starts))
    values = ops.regrets + prices @ ops.weights
    least = np.minimum.reduceat(values, starts)
    bound = float(least.sum() - prices.sum())
    bounds = bound + (values - least[ops.slot])
    margin = _MARGIN * (np.abs(bounds) + float(least.sum() + prices.sum()))
    return np.maximum(bounds - margin, ops.regrets * (1 - _MARGIN)), prices


def _best_prices(regrets: Floats, weights: list[Floats], starts: NDArray[np.int64]) -> list[float]:
    """Multipliers that make the bound large: each in turn by bisection on its subgradient."""
    prices = [0.0] * len(weights)
    typical = float(np.median(regrets)) or 1.0
    for _ in range(_ROUNDS if len(weights) > 1 else 1):
        for index, weight in enumerate(weights):
            rest = regrets.copy()
            for other, (price, other_weight) in enumerate(zip(prices, weights, strict=True)):
                if other != index:
                    rest += price * other_weight
            prices[index] = _bisect(_Overrun(rest, weight, starts), typical)
    return prices


class _Overrun:
    """Whether the relaxed choice at a price overruns the knapsack: then the price is too low."""

    def __init__(self, rest: Floats, weight: Floats, starts: NDArray[np.int64]) -> None:
        self.rest, self.weight, self.starts = rest, weight, starts
        self.sizes = np.diff(np.append(starts, len(rest)))

    def __call__(self, price: float) -> bool:
        values = self.rest + price * self.weight
        least = np.repeat(np.minimum.reduceat(values, self.starts), self.sizes)
        lightest = np.where(values <= least, self.weight, math.inf)
        return float(np.minimum.reduceat(lightest, self.starts).sum()) > 1.0


def _bisect(overruns: Callable[[float], bool], typical: float) -> float:
    low, high = 0.0, typical
    if not overruns(low):
        return low
    for _ in range(_DOUBLINGS):
        if not overruns(high):
            break
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if overruns(middle) else (low, middle)
    return high
