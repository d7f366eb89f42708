from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.training.schedule import cosine


@given(st.integers(1, 500), st.floats(1e-6, 10), st.floats(0, 1))
def test_it_stays_between_zero_and_the_peak(steps: int, peak: float, warmup: float) -> None:
    rates = [cosine(step, steps, peak, warmup) for step in range(steps)]
    assert all(0 <= rate <= peak * 1.000001 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_by_hand() -> None:
    rates = [cosine(step, 24, 2.0, warmup=1 / 6) for step in range(24)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[14] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 + math.cos(math.pi * 19 / 20))


def test_one_step_is_made_at_the_peak() -> None:
    assert cosine(0, 1, 0.1) == 0.1
