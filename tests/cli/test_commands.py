"""The command is a group: `compile` needs no name, the others do."""

from __future__ import annotations

import pytest

from lanac.cli.main import COMMANDS
from lanac.cli.options import separated


@pytest.fixture
def run(lanac):
    return lambda *arguments: lanac(*arguments, small=False)


def test_help_is_that_of_compile_and_names_the_others(run):
    outcome = run("--help")
    assert outcome.status == 0
    for words in ("Usage: lanac [OPTIONS]", "--budget", "--finetune-epochs", "--only", "--data"):
        assert words in outcome.out
    for name in set(COMMANDS) - {"compile"}:
        assert f"lanac {name}: " in outcome.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_of_its_own(run, name):
    outcome = run(name, "--help")
    assert outcome.status == 0
    assert "--help" in outcome.out
    first = (COMMANDS[name].__doc__ or "").splitlines()[0]
    assert first.split(":")[0] in " ".join(outcome.out.split())


def test_nothing_at_all_shows_help(run):
    assert "Usage: lanac [OPTIONS]" in run().out


def test_version(run):
    assert run("--version").out.startswith("lanac ")


@pytest.mark.parametrize("words", [("m.py",), ("compile", "m.py"), ("--budget", "0.5x", "m.py")])
def test_compile_needs_no_name(run, words):
    assert run(*words).err.startswith("lanac: model file 'm.py' does not exist; ")


def test_a_file_named_like_a_command_is_a_model(run, tmp_path):
    (tmp_path / "inspect").write_text("")
    assert run("inspect.py").err.startswith("lanac: model file 'inspect.py' does not exist; ")
    assert run("./inspect").err.startswith("lanac: model file 'inspect' is not a .py file; ")
    assert run("inspect", "inspect").err.startswith("lanac: model file 'inspect' is not a .py ")


def test_a_misspelt_command(run):
    outcome = run("inspct", "model.py")
    assert (outcome.status, outcome.err) == (
        1,
        "lanac: unknown command 'inspct'. Did you mean 'lanac inspect model.py'? "
        "(lanac --help lists the commands)\n",
    )


def test_options_that_may_be_repeated_and_hold_commas():
    assert separated(["a.*,b", " c ", "a.*"]) == ("a.*", "b", "c")
    assert separated(None) == ()
