"""Groups of options: typer sees options one by one, the command gets them together."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated

import pytest
import typer

from lanac.beginning import Given
from lanac.cli.groups import with_groups
from lanac.cli.options import Slots
from lanac.cli.preparing import Preparing

HELP = typer.Option(help="An inner one.")


@dataclass(frozen=True, kw_only=True)
class Inner:
    b: Annotated[str | None, HELP] = None
    c: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    a: int = 1
    inner: Inner
    d: str = "d"


got = []


@with_groups
def command(*, first: str, outer: Outer, last: bool = False) -> None:
    """Says what it does."""
    got.append((first, outer, last))


def test_options_stand_where_their_group_stands():
    found = signature(command).parameters
    assert {name: (each.annotation, each.default) for name, each in found.items()} == {
        "first": (str, Parameter.empty),
        "a": (int, 1),
        "b": (Annotated[str | None, HELP], None),
        "c": (int, Parameter.empty),
        "d": (str, "d"),
        "last": (bool, False),
    }
    assert list(found) == ["first", "a", "b", "c", "d", "last"]
    assert (command.__name__, command.__doc__) == ("command", "Says what it does.")


def test_the_command_gets_them_together():
    got.clear()
    command(first="x", a=2, b="b", c=3, d="e", last=True)
    assert got == [("x", Outer(a=2, inner=Inner(b="b", c=3), d="e"), True)]


def test_typer_reads_them():
    app = typer.Typer()
    app.command()(command)
    got.clear()
    app(["x", "5", "--b=q"], standalone_mode=False)
    assert got == [("x", Outer(inner=Inner(b="q", c=5)), False)]


def test_a_name_stands_once():
    with pytest.raises(ValueError, match=r"^duplicate parameter name: 'd'$"):

        @with_groups
        def twice(*, outer: Outer, d: int) -> None: ...


def test_what_a_preparation_gives_is_what_lanac_takes(tiny):
    slots = Slots(granularity="layer", only=["a.*,b"], skip=["c"])
    options = Preparing(slots=slots, fix=["a=identity"], keep=["b,c"], max_changed=2, threads=2)
    _, given = options.load(str(tiny))
    assert set(given) <= set(Given.__annotations__) | {"target", "out", "pool", "ops", "threads"}
    expected = {
        "granularity": "layer", "only": ("a.*", "b"), "skip": ("c",), "fix": ["a=identity"],
        "keep": ("b", "c"), "max_changed": 2, "seed": 0, "threads": 2, "out": Path("model.lanac"),
        "target": "cpu", "pool": "default", "ops": [], "anchors": (), "costs": None,
        "missing": "refuse", "device": "auto", "workspace": None,
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
