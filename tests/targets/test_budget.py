from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.errors import BudgetError, LanacError
from lanac.targets import FLOPS, LATENCY, MEMORY, PARAMS, Budget, Limit, format_cost, parse_budgets

FORMS = "expected a form such as 0.5x, 12ms, params=5M, flops=0.6x or 0.5x+params=5M"
TEACHER = {LATENCY: 20.0, PARAMS: 8e6, FLOPS: 2e9, MEMORY: 4e6}


def limit_of(text: str) -> Limit:
    (budget,) = parse_budgets(text)
    (limit,) = budget.limits
    return limit


@pytest.mark.parametrize(
    ("text", "resource", "value", "relative"),
    [
        ("0.5x", LATENCY, 0.5, True),
        (".5X", LATENCY, 0.5, True),
        ("12ms", LATENCY, 12, False),
        ("12.5 ms".replace(" ", ""), LATENCY, 12.5, False),
        ("800us", LATENCY, 0.8, False),
        ("0.01s", LATENCY, 10, False),
        ("latency=3ms", LATENCY, 3, False),
        ("params=5M", PARAMS, 5e6, False),
        ("params=5000", PARAMS, 5000, False),
        ("flops=0.6x", FLOPS, 0.6, True),
        ("flops=1.5G", FLOPS, 1.5e9, False),
        ("memory=2MB", MEMORY, 2e6, False),
        (" memory=20b ", MEMORY, 20, False),
    ],
)
def test_forms(text: str, resource: str, value: float, relative: bool) -> None:
    assert limit_of(text) == Limit(resource, pytest.approx(value), relative, text.strip())


def test_several_limits_and_several_budgets() -> None:
    budgets = parse_budgets("0.5x+params=5M, 0.3x,,")
    assert [str(budget) for budget in budgets] == ["0.5x+params=5M", "0.3x"]
    assert budgets[0].resources == (LATENCY, PARAMS)
    assert budgets[0].absolute(TEACHER) == {LATENCY: 10.0, PARAMS: 5e6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"budget '' is empty; {FORMS}"),
        (" , ", f"budget ' , ' is empty; {FORMS}"),
        ("fast", f"budget 'fast' is malformed; {FORMS}"),
        ("-1ms", f"budget '-1ms' is malformed; {FORMS}"),
        ("1e3ms", f"budget '1e3ms' is malformed; {FORMS}"),
        ("0.5x+", f"budget '' is malformed; {FORMS}"),
        ("x", f"budget 'x' is malformed; {FORMS}"),
        ("nanms", f"budget 'nanms' is malformed; {FORMS}"),
        ("0x", f"budget '0x' is zero, which no network meets; {FORMS}"),
        ("0.0ms", f"budget '0.0ms' is zero, which no network meets; {FORMS}"),
        (
            "1x",
            "budget '1x' is not below the teacher's own cost (1x); give a share between 0 and 1",
        ),
        (
            "50x",
            "budget '50x' is not below the teacher's own cost (1x); give a share between 0 and 1",
        ),
        ("12", "budget '12': unknown unit '' for latency; known: x, ms, us, s"),
        ("12kg", "budget '12kg': unknown unit 'kg' for latency; known: x, ms, us, s"),
        ("params=5ms", "budget 'params=5ms': unknown unit 'ms' for params; known: x, k, m, g"),
        ("memory=5m", "budget 'memory=5m': unknown unit 'm' for memory; known: x, b, kb, mb, gb"),
        (
            "param=5M",
            "budget 'param=5M': unknown resource 'param'. Did you mean 'params'? "
            "Known: energy, flops, latency, memory, params, size.",
        ),
        ("0.5x+10ms", "budget '0.5x+10ms' limits latency_ms twice"),
        ("0.5x,0.3x, 0.5x", "budget '0.5x,0.3x, 0.5x' names one budget twice"),
    ],
)
def test_what_is_no_budget(text: str, message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budgets(text)
    assert str(caught.value) == message


@given(st.text(alphabet="0123456789.xmsukgb=+, paramslatencyflops-", max_size=12) | st.text())
def test_any_text_is_a_budget_or_a_lanac_error(text: str) -> None:
    try:
        budgets = parse_budgets(text)
    except LanacError as error:
        assert str(error)
        return
    for budget in budgets:
        assert parse_budgets(str(budget)) == (budget,)
        assert all(limit.value > 0 for limit in budget.limits)


@given(
    st.sampled_from(["", "params=", "flops=", "memory="]),
    st.floats(0.001, 0.999).map(lambda value: round(value, 3)),
)
def test_a_share_is_below_the_teacher(name: str, share: float) -> None:
    (budget,) = parse_budgets(f"{name}{share}x")
    ((resource, value),) = budget.absolute(TEACHER).items()
    assert value == pytest.approx(share * TEACHER[resource])


@pytest.mark.parametrize(
    ("text", "own"),
    [("20ms", "20.000 ms"), ("params=9M", "8.00 M params"), ("flops=2G", "2.00 GFLOP")],
)
def test_a_limit_that_the_teacher_meets_already(text: str, own: str) -> None:
    (budget,) = parse_budgets(text)
    with pytest.raises(BudgetError) as caught:
        budget.absolute(TEACHER)
    assert str(caught.value) == (
        f"budget {text!r}: the teacher already costs only {own}; give a limit below that"
    )


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [
        (LATENCY, 1.23456, "1.235 ms"),
        (PARAMS, 5.3e6, "5.30 M params"),
        (PARAMS, 500, "500 params"),
        (FLOPS, 1.5e9, "1.50 GFLOP"),
        (FLOPS, 0, "0 FLOP"),
        (MEMORY, 2048, "2.05 kB"),
        (MEMORY, 12, "12 B"),
    ],
)
def test_costs_with_their_units(resource: str, value: float, text: str) -> None:
    assert format_cost(resource, value) == text


def test_an_empty_budget_has_no_text() -> None:
    assert str(Budget(())) == ""
