"""Which things stand or fall together: a union-find over whole tensors of numbers."""

from __future__ import annotations

import torch
from torch import Tensor

FIXED = 0
"""The number of what must stay; whatever is united with it stays too."""


class Unions:
    """Numbers from 0 up, some of them united. Tensors of them are int64."""

    def __init__(self) -> None:
        self._parents = torch.zeros(1, dtype=torch.int64)

    def new(self, *shape: int) -> Tensor:
        """Fresh numbers in that shape, each alone."""
        start = len(self._parents)
        fresh = torch.arange(start, start + torch.Size(shape).numel())
        self._parents = torch.cat([self._parents, fresh])
        return fresh.view(shape)

    def roots(self, numbers: Tensor) -> Tensor:
        """The smallest number that each is united with; same shape."""
        return self._parents[numbers]

    def unite(self, ours: Tensor, theirs: Tensor) -> None:
        """Unites the numbers at equal places; the shapes broadcast."""
        ours, theirs = self.roots(ours), self.roots(theirs)
        both = ours + theirs
        pairs = torch.stack([ours.expand_as(both).flatten(), theirs.expand_as(both).flatten()])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.shape[1]:
            self._lower(pairs)

    def fix(self, numbers: Tensor) -> None:
        """What they are united with must stay."""
        self.unite(numbers, torch.tensor(FIXED))

    def _lower(self, pairs: Tensor) -> None:
        """Every root takes the smallest root that it is linked with, until nothing changes."""
        parents = self._parents
        while True:
            ours, theirs = parents[pairs[0]], parents[pairs[1]]
            low, high = torch.minimum(ours, theirs), torch.maximum(ours, theirs)
            if torch.equal(low, high):
                break
            parents = parents.scatter_reduce(0, high, low, "amin")
            while not torch.equal(parents, parents[parents]):
                parents = parents[parents]
        self._parents = parents
