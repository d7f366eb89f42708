"""Students whose outputs are NamedTuples and dataclasses, in source that stands alone."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import fx, nn

from lanac.backends.pytorch import BACKEND, write_source
from lanac.errors import BackendError
from lanac.ir.outputs import named_tensors
from lanac.targets import parse_target

CPU = parse_target("cpu")


class Boxes(NamedTuple):
    where: Any
    score: Any = None


@dataclass(frozen=True)
class Found:
    boxes: Any
    scale: float = 0.5
    names: list[str] = field(default_factory=list)


@dataclass
class HubOutput(OrderedDict[str, Any]):
    """As Hugging Face's: a dataclass that is a dict of what is not None."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) is not None:
                self[entry.name] = getattr(self, entry.name)


@dataclass
class Computing:
    logits: Any

    def __post_init__(self) -> None:
        self.logits = self.logits * 2


def student(cls: Any, *, twice: bool = False) -> tuple[fx.GraphModule, torch.Tensor]:
    """A network with an attribute of the class's name, which returns it."""
    torch.manual_seed(0)
    graph = fx.Graph()
    x = graph.placeholder("pixel_values")
    y = graph.call_module(cls.__name__, (x,))
    z = graph.call_function(torch.relu, (y,))
    if cls is HubOutput:
        made = graph.call_function(cls, (), {"loss": None, "logits": z, "hidden_states": (y, z)})
    elif cls is Found:
        boxes = graph.call_function(Boxes, (y, [z]))
        made = graph.call_function(cls, (), {"boxes": boxes, "scale": 0.5, "names": []})
    else:
        made = graph.call_function(cls, (z,))
    graph.output({"first": made, "second": made} if twice else made)
    module = fx.GraphModule({cls.__name__: nn.Linear(4, 4)}, graph).eval()
    return module, torch.randn(3, 4)


def classes_of(module: fx.GraphModule) -> str:
    """What stands in the source before the network."""
    text = write_source(module)[0]
    return text[text.index("import torch.nn as nn\n") :].split("class Student")[0].strip()


def test_a_named_tuple() -> None:
    module, _ = student(Boxes)
    assert classes_of(module) == (
        'import torch.nn as nn\n\n\nBoxes = collections.namedtuple("Boxes", ["where", "score"], '
        "defaults=[None])"
    )


def test_a_dataclass_with_a_named_tuple_inside() -> None:
    module, _ = student(Found)
    text = write_source(module)[0]
    assert classes_of(module).endswith(
        f'''

@dataclasses.dataclass
class Found:
    """What {__name__}.Found holds."""

    boxes: object
    scale: object = 0.5
    names: object = None'''
    )
    assert "return Found(boxes=x, names=[])" in text


def test_a_dataclass_that_is_a_dict_too() -> None:
    module, _ = student(HubOutput)
    assert classes_of(module).endswith(
        f'''
@dataclasses.dataclass
class HubOutput:
    """What {__name__}.HubOutput holds."""

    loss: object = None
    logits: object = None
    hidden_states: object = None

    def __getitem__(self, key):
        if isinstance(key, str):
            return getattr(self, key)
        return [value for value in vars(self).values() if value is not None][key]'''
    )


CLEAN = """
import importlib.util, sys
import torch
from safetensors.torch import load_file
spec = importlib.util.spec_from_file_location("student", sys.argv[1] + "/student.py")
student = importlib.util.module_from_spec(spec)
spec.loader.exec_module(student)
data = load_file(sys.argv[1] + "/expected.safetensors")
out = student.load()(pixel_values=data["x"])
assert type(out) is student.HubOutput
assert out.loss is None
assert torch.equal(out.logits, data["logits"])
assert out["logits"] is out.logits
assert out[0] is out.logits
assert type(out.hidden_states) is tuple
assert out.hidden_states[1] is out.logits
assert not {"lanac", "timm", "torchvision"} & set(sys.modules)
"""


def test_it_loads_where_there_is_neither_lanac_nor_the_class(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    module, x = student(HubOutput)
    BACKEND.emit(module, tmp_path, (x,), CPU)
    with torch.no_grad():
        save_file({"x": x, "logits": module(x).logits}, tmp_path / "expected.safetensors")
    command = [sys.executable, "-IB", "-c", CLEAN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cls", [Boxes, Found, HubOutput])
@pytest.mark.parametrize("twice", [False, True])
def test_what_is_loaded_gives_the_same_tensors(cls: Any, twice: bool, tmp_path: Path) -> None:
    module, x = student(cls, twice=twice)
    run = BACKEND.load(BACKEND.emit(module, tmp_path, (x,), CPU), CPU)
    with torch.no_grad():
        expected = [tensor for _, tensor in named_tensors(module(x))]
    assert len(expected) >= 1 + twice
    assert all(torch.equal(a, b) for a, b in zip(expected, run(x), strict=True))


def test_a_class_that_computes_its_fields() -> None:
    with pytest.raises(BackendError) as caught:
        write_source(student(Computing)[0])
    assert str(caught.value) == (
        f"cannot write the output class {__name__}.Computing as PyTorch source: its __post_init__ "
        "would be lost. Return a plain dataclass, a NamedTuple or a dict, or emit ONNX only "
        "(--emit onnx)."
    )


def test_two_classes_of_one_name() -> None:
    other = namedtuple("Boxes", ["x"])
    graph = fx.Graph()
    x = graph.placeholder("x")
    pair = graph.call_function(Boxes, (x,)), graph.call_function(other, (x,))
    graph.output(pair)
    with pytest.raises(BackendError) as caught:
        write_source(fx.GraphModule({}, graph))
    assert str(caught.value) == (
        "cannot write the network as PyTorch source: two output classes are called 'Boxes'. "
        "Rename one, or emit ONNX only (--emit onnx)."
    )
