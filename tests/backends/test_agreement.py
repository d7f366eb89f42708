"""What the comparison of an emitted file with its student lets through."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lanac.backends.agreement import difference

ONE = torch.tensor([1.0, -4.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (ONE, ONE, 0.0),
        (ONE, torch.tensor([1.0, -3.0]), 0.25),
        (ONE[:0], ONE[:0], 0.0),
        (torch.tensor([True]), torch.tensor([False]), 1.0),
        (torch.tensor([2, 4]), torch.tensor([2, 3]), 0.25),
        (ONE, torch.tensor([1.0, math.nan]), math.inf),
        (torch.tensor([math.nan]), torch.tensor([math.nan]), math.inf),
        (torch.tensor([math.inf]), torch.tensor([math.inf]), math.inf),
        (ONE, ONE[None], math.inf),
        (ONE, ONE[:1], math.inf),
        (ONE, ONE.double(), math.inf),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_infinitely_far(
    ours: Tensor, theirs: Tensor, expected: float
) -> None:
    assert difference(ours, theirs) == expected
