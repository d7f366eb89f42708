"""The command `lanac`. Importing this loads no torch: `lanac --help` answers at once."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from lanac.cli.bench import bench_student
from lanac.cli.compare import compare_model
from lanac.cli.compile_model import compile_model
from lanac.cli.explain import explain_student
from lanac.cli.export import export_student
from lanac.cli.inspect_model import inspect_model
from lanac.cli.measure import measure_model
from lanac.cli.pareto import pareto_model
from lanac.cli.predict import predict_models
from lanac.cli.targets import list_targets
from lanac.errors import CommandError, LanacError

COMMANDS: dict[str, Callable[..., None]] = {
    "compile": compile_model,
    "inspect": inspect_model,
    "pareto": pareto_model,
    "measure": measure_model,
    "explain": explain_student,
    "predict": predict_models,
    "export": export_student,
    "bench": bench_student,
    "targets": list_targets,
    "compare": compare_model,
}
"""Every command has a file of its own; this is the one list of them."""

_DEFAULT = "compile"
_WITHOUT_ARGUMENTS = ("targets",)
_STOPPED = "stopped. Everything finished so far is kept: the same command goes on from there"
_INTERRUPTED = 130
"""What typer makes of Ctrl-C; older versions raise Abort."""


class CompileByDefault(TyperGroup):
    """A group whose command `compile` need not be named: `lanac model.py` compiles.

    Only a first word that is a command's name exactly is one: `inspect.py` and `./inspect` are
    models.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            _refuse_misspelt(args, list(self.commands))
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


class NamelessCommand(TyperCommand):
    """The default command; its usage line shows it without its name."""

    def get_usage(self, ctx: Any) -> str:
        return super().get_usage(ctx).replace(f" {_DEFAULT} ", " ", 1)


def _refuse_misspelt(args: list[str], commands: list[str]) -> None:
    """Two bare words are a command and a model; the first is then not a model."""
    words = [word for word in args if not word.startswith("-")]
    if len(words) < 2 or args[:2] != words[:2]:
        return
    is_model = ":" in words[0] or Path(words[0]).suffix or Path(words[0]).exists()
    near = difflib.get_close_matches(words[0], commands, n=1, cutoff=0.5)
    if near and not is_model:
        raise CommandError(
            f"unknown command {words[0]!r}. Did you mean 'lanac {near[0]} {words[1]}'? "
            "(lanac --help lists the commands)"
        )


def _other_commands() -> str:
    lines = [
        f"[bold cyan]lanac {name}[/]: {(function.__doc__ or '').splitlines()[0]}"
        for name, function in COMMANDS.items()
        if name != _DEFAULT
    ]
    return "\n\n".join(["Other commands, each with a --help of its own:", *lines])


app = typer.Typer(
    cls=CompileByDefault,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for _name, _function in COMMANDS.items():
    if _name == _DEFAULT:
        _command = app.command(
            _name, cls=NamelessCommand, no_args_is_help=True, epilog=_other_commands()
        )
    else:
        _command = app.command(_name, no_args_is_help=_name not in _WITHOUT_ARGUMENTS)
    _command(_function)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; a user's mistake ends with one message and exit status 1."""
    try:
        status: Any = app(args=arguments, prog_name="lanac", standalone_mode=False)
    except LanacError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail(_STOPPED)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise  # a defect of lanac keeps its traceback
        _fail(_usage_error(error))
    else:
        if status == _INTERRUPTED:
            _fail(_STOPPED)
        sys.exit(status if isinstance(status, int) else 0)


def _usage_error(error: Any) -> str:
    message = error.format_message()
    if not message:
        sys.exit(1)  # no arguments at all: the help has been shown
    command = getattr(getattr(error, "ctx", None), "info_name", None)
    words = ["lanac", command] if command in set(COMMANDS) - {_DEFAULT} else ["lanac"]
    return f"{message} ({' '.join(words)} --help lists the options)"


def _fail(message: str) -> None:
    sys.stdout.flush()
    print(f"lanac: {message}", file=sys.stderr, flush=True)
    if "torch" in sys.modules:
        os._exit(1)  # worker threads of torch and ONNX Runtime may outlive an interrupt
    sys.exit(1)


if __name__ == "__main__":
    main()
