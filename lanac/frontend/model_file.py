"""The user's model file: `model()`, `train_data()` and a few optional functions."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lanac.errors import ModelFileError

_EXAMPLE = """a model file needs at least

    def model():       # the trained teacher, a torch.nn.Module
    def train_data():  # a torch Dataset of (input, target)"""


@dataclass(frozen=True)
class ModelFile:
    """What a model file defines.

    Attributes:
        path: the file.
        model: the trained teacher.
        train_data: what `train_data()` returned.
        val_data: what `val_data()` returned, None without one.
        example_inputs: what `example_inputs()` returned, None without one.
        loss: `loss(outputs, targets) -> scalar tensor`, None for the default.
        metric: `metric(outputs, targets) -> number`, None for the default.
    """

    path: Path
    model: nn.Module
    train_data: Any
    val_data: Any = None
    example_inputs: Any = None
    loss: Callable[..., Any] | None = None
    metric: Callable[..., Any] | None = None


def load_model_file(path: Path) -> ModelFile:
    """Executes the user's own file and calls its functions.

    Raises:
        ModelFileError: it does not exist, fails, or lacks `model()` or `train_data()`.
    """
    if not path.is_file():
        raise ModelFileError(f"model file {str(path)!r} does not exist; {_EXAMPLE}")
    if path.suffix != ".py":
        raise ModelFileError(f"model file {str(path)!r} is not a .py file; {_EXAMPLE}")
    module = _execute(path)
    model = _call(module, path, "model")
    if not isinstance(model, nn.Module):
        raise ModelFileError(
            f"{path}: model() returned {type(model).__name__}, expected a torch.nn.Module"
        )
    return ModelFile(
        path=path,
        model=model,
        train_data=_call(module, path, "train_data"),
        val_data=_call(module, path, "val_data", required=False),
        example_inputs=_call(module, path, "example_inputs", required=False),
        loss=_function(module, path, "loss"),
        metric=_function(module, path, "metric"),
    )


def _execute(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lanac_user_model", path)
    if spec is None or spec.loader is None:
        raise ModelFileError(f"model file {str(path)!r} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file can import its neighbours
    # Under its name, so that classes defined in it can be found (data loader workers need that).
    sys.modules["lanac_user_model"] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelFileError(_failure(path, "importing the file", error)) from error
    return module


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
