"""The user's model file: `model()`, `train_data()` and a few optional functions."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

from lanac.errors import LanacError, ModelFileError
from lanac.frontend.source import Source

_EXAMPLE = """a model file needs at least

    def model():       # the trained teacher, a torch.nn.Module
    def train_data():  # a torch Dataset of (input, target)"""


def load_model_file(path: Path) -> Source:
    """Executes the user's own file and calls its functions.

    Raises:
        ModelFileError: it does not exist, fails, or lacks `model()` or `train_data()`.
    """
    module, model = _load_model(path)
    return Source(
        name=path.stem,
        model=model,
        train_data=_call(module, path, "train_data"),
        val_data=_call(module, path, "val_data", required=False),
        example_inputs=_call(module, path, "example_inputs", required=False),
        loss=_function(module, path, "loss"),
        metric=_function(module, path, "metric"),
    )


def load_untrained(path: Path) -> Source:
    """The same without what only training needs: `example_inputs()` spares `train_data()`.

    Raises:
        ModelFileError: it does not exist, fails, or lacks `model()`.
    """
    module, model = _load_model(path)
    example = _call(module, path, "example_inputs", required=False)
    data = None if example is not None else _call(module, path, "train_data", required=False)
    return Source(path.stem, model, train_data=data, example_inputs=example)


def execute_file(
    path: Path, name: str, *, what: str, needs: str, error: type[LanacError]
) -> ModuleType:
    """Executes a file of the user's own; the folder it is in becomes importable.

    Args:
        path: the file.
        name: under which Python knows it.
        what: what it is, for messages: `model file`.
        needs: what it needs at least, for messages.
        error: the class of what is raised.

    Raises:
        LanacError: it does not exist, is no Python or fails.
    """
    if not path.is_file():
        raise error(f"{what} {str(path)!r} does not exist; {needs}")
    if path.suffix != ".py":
        raise error(f"{what} {str(path)!r} is not a .py file; {needs}")
    loader = _Uncached(name, str(path.absolute()))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise error(f"{what} {str(path)!r} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file can import its neighbours
    # Under its name, so that classes defined in it can be found (data loader workers need that).
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as failure:
        raise error(_failure(path, "importing the file", failure)) from failure
    return module


class _Uncached(SourceFileLoader):
    """Neither reads nor writes compiled files: one of the same second and size would be stale."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError


def _load_model(path: Path) -> tuple[ModuleType, nn.Module]:
    module = execute_file(
        path, "lanac_user_model", what="model file", needs=_EXAMPLE, error=ModelFileError
    )
    model = _call(module, path, "model")
    if not isinstance(model, nn.Module):
        raise ModelFileError(
            f"{path}: model() returned {type(model).__name__}, expected a torch.nn.Module"
        )
    return module, model


def _function(module: ModuleType, path: Path, name: str) -> Callable[..., Any] | None:
    value = getattr(module, name, None)
    if value is not None and not callable(value):
        raise ModelFileError(f"{path}: {name} is {type(value).__name__}, expected a function")
    return value


def _call(module: ModuleType, path: Path, name: str, required: bool = True) -> Any:
    function = _function(module, path, name)
    if function is None:
        if required:
            raise ModelFileError(f"{path} has no function {name}(); {_EXAMPLE}")
        return None
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ModelFileError(_failure(path, f"{name}()", error)) from error


def _failure(path: Path, what: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        file = error.filename or path  # a neighbour that it imports may be the broken one
        same = Path(file) == path.absolute()
        return f"{path if same else file}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    # Python makes the name of an imported file absolute.
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return f"{where}: {what} failed: {type(error).__name__}: {error}"
