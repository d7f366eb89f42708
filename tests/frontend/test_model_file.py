from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from lanac.errors import ModelFileError
from lanac.frontend.model_file import load_model_file

NEEDED = """a model file needs at least

    def model():       # the trained teacher, a torch.nn.Module
    def train_data():  # a torch Dataset of (input, target)"""

MODEL = "from torch import nn\ndef model():\n    return nn.Linear(2, 2)\n"
DATA = "def train_data():\n    return [1, 2]\n"


@pytest.fixture(autouse=True)
def tidy_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a model file imports is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("neighbour") or name == "lanac_user_model":
            del sys.modules[name]


def write(folder: Path, text: str, name: str = "model.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def message_of(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_model_file(path)
    return str(caught.value)


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    found = load_model_file(write(tmp_path, MODEL + DATA))
    assert isinstance(found.model, nn.Linear)
    assert found.train_data == [1, 2]
    assert found.name == "model"
    others = (found.val_data, found.example_inputs, found.loss, found.metric)
    assert others == (None, None, None, None)


def test_everything_that_may_be_there(tmp_path: Path) -> None:
    more = (
        "def val_data(): return 'val'\n"
        "def example_inputs(): return 'example'\n"
        "def loss(outputs, targets): return 1\n"
        "def metric(outputs, targets): return 2\n"
    )
    found = load_model_file(write(tmp_path, MODEL + DATA + more))
    assert (found.val_data, found.example_inputs) == ("val", "example")
    assert found.loss is not None and found.metric is not None
    assert (found.loss(0, 0), found.metric(0, 0)) == (1, 2)


def test_it_imports_its_neighbours_and_its_classes_can_be_found(tmp_path: Path) -> None:
    write(tmp_path, "from torch import nn\nclass Net(nn.Linear): pass\n", "neighbour_net.py")
    text = (
        "from neighbour_net import Net\n"
        "class Data(list): pass\n"
        "def model(): return Net(2, 2)\n"
        "def train_data(): return Data([1])\n"
    )
    found = load_model_file(write(tmp_path, text))
    assert type(found.model).__name__ == "Net"
    kind = type(found.train_data)
    assert getattr(sys.modules[kind.__module__], kind.__name__) is kind


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    assert message_of(path) == f"model file {str(path)!r} does not exist; {NEEDED}"


def test_no_python(tmp_path: Path) -> None:
    path = write(tmp_path, "", "model.pt")
    assert message_of(path) == f"model file {str(path)!r} is not a .py file; {NEEDED}"


@pytest.mark.parametrize(("text", "name"), [(DATA, "model"), (MODEL, "train_data")])
def test_a_function_is_missing(tmp_path: Path, text: str, name: str) -> None:
    path = write(tmp_path, text)
    assert message_of(path) == f"{path} has no function {name}(); {NEEDED}"


def test_no_module(tmp_path: Path) -> None:
    path = write(tmp_path, f"def model(): return {{}}\n{DATA}")
    assert message_of(path) == f"{path}: model() returned dict, expected a torch.nn.Module"


@pytest.mark.parametrize("name", ["train_data", "loss", "metric", "val_data"])
def test_no_function(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"{MODEL}{DATA}{name} = 3\n")
    assert message_of(path) == f"{path}: {name} is int, expected a function"


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1\ny = = 2\n")
    assert message_of(path) == f"{path}, line 2: invalid syntax"


def test_a_syntax_error_of_a_neighbour_names_the_neighbour(tmp_path: Path) -> None:
    neighbour = write(tmp_path, "\n\n\ny = = 2\n", "neighbour_broken.py")
    path = write(tmp_path, f"import neighbour_broken\n{MODEL}{DATA}")
    assert message_of(path) == f"{neighbour}, line 4: invalid syntax"


def test_an_error_on_import_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1\nimport no_such_module\n")
    assert message_of(path) == (
        f"{path}, line 2: importing the file failed: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )


@pytest.mark.parametrize("name", ["model", "train_data", "val_data", "example_inputs"])
def test_an_error_in_a_function_names_the_line_in_the_users_file(tmp_path: Path, name: str) -> None:
    text = f"{MODEL}{DATA}def {name}():\n    import json\n    json.loads('')\n"
    path = write(tmp_path, text)
    assert message_of(path) == (
        f"{path}, line 8: {name}() failed: "
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    )


def test_a_relative_path_names_the_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, f"def model():\n    1 / 0\n{DATA}")
    monkeypatch.chdir(tmp_path)
    assert message_of(Path("model.py")) == (
        "model.py, line 2: model() failed: ZeroDivisionError: division by zero"
    )
