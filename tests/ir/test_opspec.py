from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.errors import PoolError
from lanac.ir import IDENTITY, TEACHER, OpSpec, Plan, parse_op

WORDS = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)
STRINGS = st.from_regex(r"[a-z][a-z.+-]{0,6}", fullmatch=True).filter(
    lambda text: text not in ("inf", "nan", "infinity")
)
VALUES = st.integers() | st.floats(allow_nan=False) | STRINGS
OPS = st.builds(
    lambda family, options: OpSpec.of(family, **options),
    WORDS,
    st.dictionaries(WORDS.filter(lambda w: w not in ("cls", "family")), VALUES, max_size=4),
)


@given(OPS)
def test_the_text_parses_back(op: OpSpec) -> None:
    parsed = parse_op(str(op))
    assert parsed == op
    assert [type(value) for _, value in parsed.options] == [type(v) for _, v in op.options]


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("teacher", TEACHER),
        (" identity ", IDENTITY),
        ("efn()", OpSpec("efn")),
        ("efn( e = 3 , k=5,se=0.04 )", OpSpec.of("efn", e=3, k=5, se=0.04)),
        ("x(a=-2,b=1e-05,c=wide)", OpSpec.of("x", a=-2, b=1e-05, c="wide")),
    ],
)
def test_what_is_written_by_hand(text: str, op: OpSpec) -> None:
    assert parse_op(text) == op


@pytest.mark.parametrize("text", ["", "3x", "efn(", "efn)", "efn(e=(3))", "efn(e=3) k", "e fn"])
def test_what_is_no_op(text: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_op(text)
    assert str(caught.value) == f"op {text!r}: expected FAMILY or FAMILY(option=value,...)"


@pytest.mark.parametrize(("text", "part"), [("efn(3)", "3"), ("efn(e=3,=5)", "=5"), ("x( )", " ")])
def test_what_is_no_option(text: str, part: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_op(text)
    assert str(caught.value) == f"op {text!r}: expected option=value, got {part!r}"


def test_options_by_name() -> None:
    op = parse_op("efn(e=3,se=0.04,act=silu)")
    assert op["act"] == "silu"
    assert (op.number("e"), op.number("se")) == (3.0, 0.04)
    with pytest.raises(KeyError):
        op["k"]


def test_a_plan_counts_what_it_changes() -> None:
    assert Plan((TEACHER, IDENTITY, TEACHER, OpSpec.of("slim", w=0.5)), 0.0).changed() == 2
