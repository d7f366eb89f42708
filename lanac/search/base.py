"""What a search for plans is given, and what it gives: the interface that all methods share.

A method gets the plans that keep every limit (`Space`), somebody who tells what a plan is worth
(`Judge`), how much it may ask (`SearchOptions`) and a seed. It returns plans, the best first. Nothing
here knows where a loss comes from: tests judge by a formula, a compilation by training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lanac.search.space import Choices, Space


class Judge(Protocol):
    """Tells what plans are worth before finetuning. Everything that takes time goes through here."""

    def losses(self, plans: Sequence[Choices]) -> list[float]:
        """The loss of the network of each plan."""

    def mixture(self, shares: Sequence[Tensor], step: int) -> tuple[float, list[Tensor]]:
        """The loss of a network in which every slot adds up all its ops, and what it leans on.

        Args:
            shares: weight of each op in the sum, (ops,) per slot; ops that a limit forbids too.
            step: which training samples to take.

        Returns:
            The loss, and its derivative by the shares, of their shapes.
        """


@dataclass(frozen=True)
class SearchOptions:
    """How much work a search is.

    Attributes:
        evaluations: how many plans may be judged; gradient steps of a differentiable search.
        keep: how many plans are returned at most.
    """

    evaluations: int = 200
    keep: int = 16


Method = Callable[[Space, Judge, SearchOptions, int], list[Choices]]
"""A way of searching: space, judge, options and seed to plans, the best first, no two alike."""


class Ledger:
    """Asks the judge once per plan, never for more plans than allowed, and remembers the answers.

    Args:
        judge: is asked.
        evaluations: how many plans may be judged.
    """

    def __init__(self, judge: Judge, evaluations: int) -> None:
        self._judge, self._evaluations = judge, evaluations
        self._losses: dict[Choices, float] = {}

    @property
    def left(self) -> int:
        """How many plans may still be judged."""
        return self._evaluations - len(self._losses)

    def knows(self, plan: Choices) -> bool:
        return plan in self._losses

    def losses(self, plans: Sequence[Choices]) -> list[float]:
        """The loss of each plan, infinite where it is no number.

        Raises:
            ValueError: more new plans than may still be judged: a fault of the method.
        """
        new = [plan for plan in dict.fromkeys(plans) if plan not in self._losses]
        if len(new) > self.left:
            raise ValueError(f"{len(new)} new plans to judge, {self.left} evaluations left")
        if new:
            for plan, loss in zip(new, self._judge.losses(new), strict=True):
                self._losses[plan] = loss if math.isfinite(loss) else math.inf
        return [self._losses[plan] for plan in plans]

    def best(self, count: int) -> list[Choices]:
        """The plans of the lowest loss, the best first; of equal ones, the one judged first."""
        return sorted(self._losses, key=self._losses.__getitem__)[:count]
