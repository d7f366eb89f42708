from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.targets.additive import Sums, fit_additive

TEACHER = Sums(10.0, 4e6, 1e6, 8, 9.0)
amounts = st.floats(0.1, 10)


def network(share: float, border: float, weights: float, parts: float, **terms: float) -> Sums:
    """A network whose parts take a share of the teacher's time alone, and what it measures."""
    whole = terms.get("scale", 1.0) * 10 * share
    whole += terms.get("per_byte", 0.0) * border + terms.get("per_weight", 0.0) * weights
    return Sums(10 * share, border, weights, parts, whole + terms.get("per_part", 0.0) * parts)


SHAPES = [
    (0.9, 4e6, 5e5, 8), (0.7, 2e6, 9e5, 6), (0.5, 3e6, 1e5, 8), (0.4, 1e6, 4e5, 3),
    (0.6, 4e6, 2e5, 7), (0.8, 2e6, 3e5, 4), (0.3, 3e6, 6e5, 6), (0.5, 1e6, 8e5, 2),
]  # fmt: skip


@pytest.mark.parametrize(
    "terms",
    [
        {"scale": 0.8},
        {"scale": 1.2, "per_byte": -4e-7},  # conversions that neighbours share
        {"scale": 0.8, "per_weight": 1e-6, "per_part": 0.05},  # caches that others use
    ],
)
def test_what_is_additive_is_found_whatever_its_sign(terms: dict[str, float]) -> None:
    teacher = network(1.0, 4e6, 1e6, 8, **terms)
    networks = [network(*shape, **terms) for shape in SHAPES]
    model = fit_additive(teacher, networks)
    for item in networks:
        assert model.predicted(item) == pytest.approx(item.whole_ms, rel=0.03)
    assert model.error < 0.03


def test_one_factor_alone_is_found_exactly() -> None:
    networks = [network(*shape, scale=0.8) for shape in SHAPES]
    model = fit_additive(network(1.0, 4e6, 1e6, 8, scale=0.8), networks)
    assert model.scale == pytest.approx(0.8)
    assert [model.ms_per_byte, model.ms_per_weight, model.ms_per_part] == pytest.approx([0, 0, 0])
    assert model.error == pytest.approx(0)


@given(st.lists(st.tuples(amounts, amounts, amounts, amounts, amounts), max_size=6))
def test_the_teacher_is_exact_whatever_the_others_say(others: list[tuple[float, ...]]) -> None:
    networks = [Sums(a, 1e6 * b, 1e6 * c, d, e) for a, b, c, d, e in others]
    assert fit_additive(TEACHER, networks).predicted(TEACHER) == pytest.approx(9.0)


def test_shares_sum_up_to_what_is_predicted() -> None:
    networks = [network(*shape, scale=0.8, per_part=0.05) for shape in SHAPES]
    model = fit_additive(TEACHER, networks)
    parts = [(1.0, 2e6, 3e5), (0.5, 1e6, 1e5), (2.0, 1e6, 6e5)]
    whole = Sums(*(sum(column) for column in zip(*parts, strict=True)), 3, 1.0)
    assert sum(model.share(*part) for part in parts) == pytest.approx(model.predicted(whole))


def test_a_part_never_becomes_cheaper_than_a_tenth_of_its_measurement() -> None:
    networks = [network(*shape, scale=1.2, per_byte=-4e-7) for shape in SHAPES]
    model = fit_additive(network(1.0, 4e6, 1e6, 8, scale=1.2, per_byte=-4e-7), networks)
    assert model.ms_per_byte < 0
    assert model.share(1.0, 1e9, 0) == pytest.approx(0.1 * model.scale)


def test_without_networks_there_is_one_scale() -> None:
    model = fit_additive(TEACHER, [])
    assert model.scale == pytest.approx(0.9)
    assert [model.ms_per_byte, model.ms_per_weight, model.ms_per_part] == pytest.approx([0, 0, 0])
    assert model.error == 0


def test_terms_that_the_teacher_does_not_have() -> None:
    """A network of poolings has no weights."""
    model = fit_additive(Sums(10, 4e6, 0, 8, 9), [Sums(5, 2e6, 0, 4, 4.5)])
    assert model.ms_per_weight == 0
    assert model.predicted(Sums(5, 2e6, 0, 4, 4.5)) == pytest.approx(4.5)


def test_larger_parts_cost_more() -> None:
    networks = [network(*shape, scale=0.8, per_part=0.05) for shape in SHAPES]
    model = fit_additive(TEACHER, networks)
    costs = [model.share(alone, 1e6, 1e5) for alone in (0.1, 0.5, 1.0, 2.0)]
    assert all(one < other for one, other in pairwise(costs))
