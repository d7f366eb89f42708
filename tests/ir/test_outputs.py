from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lanac.ir.outputs import named_tensors

A, B, C = torch.zeros(1), torch.ones(1), torch.ones(2)
Boxes = namedtuple("Boxes", ["where", "score"])


@dataclass
class Plain:
    logits: Any
    hidden: Any = None


@dataclass
class AlsoDict(OrderedDict[str, Any]):
    """As Hugging Face's outputs: what is None is no item."""

    loss: Any = None
    logits: Any = None

    def __post_init__(self) -> None:
        self["logits"] = self.logits


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (A, ["output"]),
        ((A, [B, C]), ["output_0", "output_1.0", "output_1.1"]),
        ({"out": A, "aux": {"x": B}}, ["out", "aux.x"]),
        (OrderedDict({"0": A, "pool": B}), ["output_0", "pool"]),
        (Boxes(A, (B, None)), ["where", "score.0"]),
        ([Boxes(A, B)], ["output_0.where", "output_0.score"]),
        (Plain(A, [B, Plain(C)]), ["logits", "hidden.0", "hidden.1.logits"]),
        (AlsoDict(logits=A), ["logits"]),
        ({"n": 3, "none": None, "text": "x", 5: A}, ["output_5"]),
        ((), []),
    ],
)
def test_names_say_where_a_tensor_stands(outputs: Any, names: list[str]) -> None:
    assert [name for name, _ in named_tensors(outputs)] == names


def test_tensors_come_in_the_order_of_the_structure() -> None:
    tensors = [tensor for _, tensor in named_tensors({"z": Plain(A, [B]), "a": C})]
    assert [id(tensor) for tensor in tensors] == [id(A), id(B), id(C)]
    assert all(isinstance(tensor, Tensor) for tensor in tensors)
