"""The command `lanac`. Importing this loads no torch: `lanac --help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lanac.errors import BudgetError, LanacError
from lanac.version import __version__

_STOPPED = "stopped. Everything finished so far is kept: the same command goes on from there"
_INTERRUPTED = 130
"""What typer makes of Ctrl-C; older versions raise Abort."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lanac {__version__}")
        raise typer.Exit


@app.command(no_args_is_help=True)
def compile_model(
    model: Annotated[
        Path, typer.Argument(help="Python file with model() and train_data().", metavar="MODEL.py")
    ],
    budget: Annotated[
        str,
        typer.Option(
            help="0.5x, 12ms, params=5M, flops=0.6x; joined by + where all must hold, separated by "
            "commas for one student each."
        ),
    ] = "0.5x",
    target: Annotated[
        str, typer.Option(help="DEVICE[:RUNTIME][:PRECISION][:bN][:tN], such as cpu or cpu:b8.")
    ] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the students. Default: the model file's name and .lanac."),
    ] = None,
    pool: Annotated[
        str,
        typer.Option(help="default, skip, families and single ops, separated by commas."),
    ] = "default",
    emit: Annotated[str, typer.Option(help="Outputs, separated by commas.")] = "pytorch,onnx",
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda.")] = "auto",
    workspace: Annotated[
        Path | None, typer.Option(help="Folder for intermediate results. Default: below --out.")
    ] = None,
    distill_samples: Annotated[
        int, typer.Option(min=1, help="Training samples that every candidate learns from.")
    ] = 8192,
    score_samples: Annotated[
        int, typer.Option(min=2, help="Training samples that every op is scored on.")
    ] = 1024,
    plans: Annotated[int, typer.Option(min=1, help="Diverse plans per budget.")] = 16,
    evaluate_images: Annotated[
        int, typer.Option(min=2, help="Training samples that the best plans are compared on.")
    ] = 6000,
    finalists: Annotated[
        int, typer.Option(min=1, help="Plans that are timed as whole networks.")
    ] = 3,
    finetune_epochs: Annotated[int, typer.Option(min=0, help="Epochs of finetuning.")] = 5,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Peak learning rate of finetuning.")
    ] = 5e-4,
    batch_size: Annotated[int, typer.Option(min=2, help="Samples per step.")] = 128,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Makes a trained network faster: replaces inefficient parts by cheaper ones that imitate them.

    Every result is kept: a run that was stopped goes on where it was, and another budget reuses
    what was prepared.
    """
    from rich.console import Console

    from lanac.compiler import Settings, compile
    from lanac.frontend.model_file import load_model_file
    from lanac.report.console import ConsoleInstruments, show_result
    from lanac.report.summary import verdict

    console = Console(soft_wrap=not sys.stdout.isatty())
    loaded = load_model_file(model)
    result = compile(
        loaded.model,
        train_data=loaded.train_data,
        val_data=loaded.val_data,
        budget=budget,
        target=target,
        out=out if out is not None else Path(f"{model.stem}.lanac"),
        workspace=workspace,
        loss=loaded.loss,
        metric=loaded.metric,
        example_inputs=loaded.example_inputs,
        pool=pool,
        emit=emit,
        seed=seed,
        device=device,
        settings=Settings(
            distill_samples=distill_samples,
            score_samples=score_samples,
            plans=plans,
            evaluate_images=evaluate_images,
            finalists=finalists,
            finetune_epochs=finetune_epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
        ),
        instruments=ConsoleInstruments(console),
    )
    show_result(console, result)
    if result.failures:
        raise result.failures[0]
    for student in result.students:
        met, sentence = verdict(student)
        if not met:
            raise BudgetError(
                f"{sentence}, as measured at the end. The files are complete; where the miss is "
                "small, a busy machine may be the reason"
            )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; a user's mistake ends with one message and exit status 1."""
    try:
        status: Any = app(args=arguments, standalone_mode=False)
    except LanacError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail(_STOPPED)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise  # a defect of lanac keeps its traceback
        _fail(f"{error.format_message()} (lanac --help lists the options)")
    else:
        if status == _INTERRUPTED:
            _fail(_STOPPED)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    sys.stdout.flush()
    print(f"lanac: {message}", file=sys.stderr, flush=True)
    if "torch" in sys.modules:
        os._exit(1)  # worker threads of torch and ONNX Runtime may outlive an interrupt
    sys.exit(1)


if __name__ == "__main__":
    main()
