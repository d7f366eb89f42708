from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.targets.additive import Sums, fit_additive

numbers = st.floats(0.1, 10)


@given(
    st.floats(0.5, 2),
    st.floats(0, 0.05),
    st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8),
)
def test_what_is_additive_is_found(
    scale: float, conversion: float, parts: list[tuple[float, float]]
) -> None:
    sums = [Sums(alone, size, scale * alone - conversion * size) for alone, size in parts]
    sums = [item for item in sums if item.whole_ms > 0.01]
    if len(sums) < 2:
        return
    model = fit_additive(sums[0], sums[1:])
    for item in sums:
        predicted = model.scale * item.alone_ms - model.conversion_ms_per_byte * item.border_bytes
        assert predicted == pytest.approx(item.whole_ms, rel=1e-6)
    assert model.error == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_exact_whatever_the_others_say() -> None:
    teacher = Sums(10, 4, 9)
    model = fit_additive(teacher, [Sums(5, 4, 3), Sums(2, 1, 1.9), Sums(7, 2, 5)])
    predicted = model.scale * 10 - model.conversion_ms_per_byte * 4
    assert predicted == pytest.approx(9)


def test_a_conversion_that_would_cost_less_than_nothing_is_none() -> None:
    # Networks slower than their parts: taking bytes off would make it worse.
    model = fit_additive(Sums(10, 4, 10), [Sums(5, 4, 6), Sums(5, 1, 5)])
    assert model.conversion_ms_per_byte == 0
    assert model.scale == 1


def test_a_part_never_becomes_cheaper_than_a_tenth_of_its_measurement() -> None:
    model = fit_additive(Sums(10, 4, 8), [Sums(5, 4, 2)])
    assert model.conversion_ms_per_byte > 0
    assert model.share(1.0, 1e9) == pytest.approx(0.1 * model.scale)


def test_without_networks_there_is_one_scale() -> None:
    model = fit_additive(Sums(10, 4, 8), [])
    assert (model.scale, model.conversion_ms_per_byte, model.error) == (0.8, 0, 0)
