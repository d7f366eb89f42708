"""What values an option takes, also those that are on no grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lanac.ir import OptionValue


@dataclass(frozen=True)
class Values:
    """The values of an option.

    Attributes:
        text: what they are, as in "expected an odd number from 1 on".
        hold: whether a number, or a word where the grid has words, is one of them.
    """

    text: str
    hold: Callable[[OptionValue], bool]


@runtime_checkable
class LimitedFamily(Protocol):
    """A family that says which values its options take.

    Attributes:
        option_values: for each option; one that is missing takes whatever is of its kind.
    """

    option_values: tuple[tuple[str, Values], ...]


def between(lowest: float, highest: float, *, open_ends: bool = False) -> Callable[..., bool]:
    """Whether a number lies there; never for what is no number."""

    def holds(value: OptionValue) -> bool:
        if not isinstance(value, (int, float)):
            return False
        return lowest < value < highest if open_ends else lowest <= value <= highest

    return holds


def _is_odd(value: OptionValue) -> bool:
    return isinstance(value, int) and value >= 1 and value % 2 == 1


COUNT = Values("a whole number from 1 on", between(1, math.inf))
KERNEL = Values("an odd number from 1 on: an even kernel changes the size", _is_odd)
WIDTH = Values("a number above 0", between(0, math.inf, open_ends=True))
SHARE = Values("a number above 0 and below 1", between(0, 1, open_ends=True))
RATIO = Values("a number from 0 (none) to 1", between(0, 1))


def word(*words: str) -> Values:
    """One of these words."""
    return Values(" or ".join(words), lambda value: value in words)
