from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lanac.errors import ProgramError
from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace
from lanac.ir import LeftOut, Program, verify_program

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist" / "network.py"


def cut(model: nn.Module, *inputs: Tensor) -> Program:
    """Traces, partitions and verifies."""
    program = partition(trace(model, inputs))
    verify_program(program, inputs)
    return program


def names(program: Program) -> list[str]:
    return [slot.name for slot in program.slots]


def layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Any:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Gated(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Inverted(nn.Module):
    """Inverted residual, with a skip where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, gate: bool = False) -> None:
        super().__init__()
        inner = 2 * inputs
        self.expand = layer(inputs, inner, 1)
        self.depthwise = layer(inner, inner, 3, stride, inner)
        self.gate = Gated(inner) if gate else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(inner, outputs, 1), nn.BatchNorm2d(outputs))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + y if self.skip else y


class Block(nn.Module):
    """Residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = layer(inputs, outputs, stride=stride)
        self.conv2 = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Head(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(x), 1))


def test_the_residual_network_of_the_example() -> None:
    spec = importlib.util.spec_from_file_location("fashion_network", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = cut(module.ResNet((8, 16), 2), torch.randn(2, 1, 28, 28))
    assert program.print() == (
        "slot   0 stem        f32[N,1,28,28] -> f32[N,16,28,28]  (3 nodes: stem_0 .. stem_2)\n"
        "slot   1 stem_2      f32[N,16,28,28] -> f32[N,8,14,14]  (3 nodes: stem_3 .. stem_5)\n"
        "slot   2 blocks.0    f32[N,8,14,14] -> f32[N,8,14,14]"
        "  (8 nodes: blocks_0_conv1 .. blocks_0_relu_1)\n"
        "slot   3 blocks.1    f32[N,8,14,14] -> f32[N,8,14,14]"
        "  (8 nodes: blocks_1_conv1 .. blocks_1_relu_1)\n"
        "slot   4 blocks.2    f32[N,8,14,14] -> f32[N,16,7,7]"
        "  (9 nodes: blocks_2_conv1 .. blocks_2_relu_1)\n"
        "slot   5 blocks.3    f32[N,16,7,7] -> f32[N,16,7,7]"
        "  (8 nodes: blocks_3_conv1 .. blocks_3_relu_1)\n"
        "slot   6 classifier  f32[N,16,7,7] -> f32[N,10]  (3 nodes: pool .. classifier)"
    )


def test_an_inverted_residual_is_one_slot_with_and_without_skip() -> None:
    model = nn.Sequential()
    model.stem = layer(3, 8)
    model.body = nn.Sequential(Inverted(8, 8), Inverted(8, 12, 2), Inverted(12, 12))
    model.head = Head(12)
    program = cut(model, torch.randn(2, 3, 8, 8))
    assert names(program) == ["stem", "body.0", "body.1", "body.2", "head.classifier"]
    assert program.left_out == ()


@pytest.mark.parametrize("outputs", [8, 12], ids=["skip", "no skip"])
def test_a_gate_stays_with_the_layer_that_it_gates(outputs: int) -> None:
    model = nn.Sequential()
    model.stem = layer(3, 8)
    model.body = Inverted(8, outputs, gate=True)
    model.head = Head(outputs)
    program = cut(model, torch.randn(2, 3, 8, 8))
    assert names(program) == ["stem", "body", "head.classifier"]


def test_a_depthwise_separable_layer_and_a_fused_inverted_residual_are_one_slot_each() -> None:
    linear = nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12))
    model = nn.Sequential()
    model.stem = layer(3, 8)
    model.separable = nn.Sequential(layer(8, 8, groups=8), linear)
    model.fused = nn.Sequential(layer(12, 24), nn.Conv2d(24, 12, 1))
    model.head = Head(12)
    program = cut(model, torch.randn(2, 3, 8, 8))
    assert names(program) == ["stem", "separable", "fused", "head.classifier"]


def test_plain_layers_are_one_slot_each_with_what_follows_them() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3), layer(3, 4), nn.MaxPool2d(2), layer(4, 4), nn.Dropout(0.1), Head(4)
    )
    program = cut(model, torch.randn(2, 3, 8, 8))
    nodes = [slot.nodes for slot in program.slots]
    assert nodes == [
        ("_0", "_1_0", "_1_1", "_1_2", "_2"),
        ("_3_0", "_3_1", "_3_2", "_4"),
        ("_5_pool", "flatten", "_5_classifier"),
    ]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.body[0], self.body[1]
        return first(second(first(x)))


def test_shared_weights_are_left_out() -> None:
    program = cut(Shared(), torch.randn(2, 3, 4, 4))
    assert [slot.nodes for slot in program.slots] == [("body_1",)]
    reason = "weight body.0.weight is also used elsewhere"
    assert program.left_out == (LeftOut(("body_0",), reason), LeftOut(("body_2",), reason))


def test_a_slot_beside_shared_weights_can_be_replaced() -> None:
    """The slot is called `body`, the module outside `body.0`: they must not end up in each other."""
    model, x = Shared().eval(), torch.randn(2, 3, 4, 4)
    program = cut(model, x)
    op = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval()
    expected = model.body[0](op(model.body[0](x)))
    student = program.rewrite({program.slots[0].name: op})
    assert torch.equal(student(x), expected)


def test_several_inputs_are_carried_through_and_listed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)
            self.body, self.head = layer(4, 4), Head(4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.body(self.left(x) + self.right(y)))

    program = cut(Two(), torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4))
    assert names(program) == ["left", "right", "body", "head.classifier"]
    assert program.left_out == (
        LeftOut(("add",), "no region with one tensor in and one tensor out"),
    )


def test_nested_outputs_are_carried_through_and_listed() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = layer(3, 4)
            self.boxes, self.classes = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> dict[str, Any]:
            x = self.body(x)
            return {"boxes": [self.boxes(x)], "classes": (self.classes(x), x)}

    x = torch.randn(2, 3, 4, 4)
    model = Detector()
    program = cut(model, x)
    assert names(program) == ["body", "boxes", "classes"]
    assert program.left_out == ()
    student = program.rewrite({"body": nn.Conv2d(3, 4, 1)})
    outputs = student(x)
    assert outputs.keys() == {"boxes", "classes"}
    assert torch.equal(outputs["boxes"][0], model.boxes(outputs["classes"][1]))


def test_what_reads_shapes_is_cut_all_the_same() -> None:
    class Reshaping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = layer(3, 4), layer(4, 4), nn.Linear(4 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            batch = x.shape[0]
            x = self.two(self.one(x))
            return self.head(x.view(batch, -1))

    program = cut(Reshaping(), torch.randn(2, 3, 4, 4))
    assert names(program)[:2] == ["one", "two"]


def test_nothing_to_replace_says_why() -> None:
    with pytest.raises(ProgramError) as caught:
        cut(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), torch.randn(2, 3, 4, 4))
    assert str(caught.value) == (
        "nothing in Sequential can become a slot (no weights). "
        "lanac needs layers with weights, with one tensor in and one tensor out."
    )


def test_names_that_differ_only_in_dots_do_not_meet() -> None:
    model = nn.Sequential()
    model.a_0 = nn.Conv2d(3, 3, 3)
    model.a = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    program = cut(model, torch.randn(2, 3, 9, 9))
    attributes = [slot.attribute for slot in program.slots]
    assert len(attributes) == len(set(attributes)) == 3


# Properties -------------------------------------------------------------------------------------

KINDS = ("plain", "block", "strided block", "inverted", "gated", "strided inverted", "pool", "relu")


def part(kind: str, inputs: int, outputs: int) -> tuple[nn.Module, int]:
    """A part of a network, and its number of output channels."""
    made: dict[str, tuple[nn.Module, int]] = {
        "plain": (layer(inputs, outputs), outputs),
        "block": (Block(inputs, outputs), outputs),
        "strided block": (Block(inputs, outputs, 2), outputs),
        "inverted": (Inverted(inputs, outputs), outputs),
        "gated": (Inverted(inputs, outputs, gate=True), outputs),
        "strided inverted": (Inverted(inputs, outputs, 2), outputs),
        "pool": (nn.MaxPool2d(3, 1, 1), inputs),
        "relu": (nn.ReLU(inplace=True), inputs),
    }
    return made[kind]


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([2, 4])), max_size=5))
def test_any_network_is_covered_once(parts: list[tuple[str, int]]) -> None:
    torch.manual_seed(0)
    modules: list[nn.Module] = [layer(3, 4)]
    channels = 4
    for kind, outputs in parts:
        module, channels = part(kind, channels, outputs)
        modules.append(module)
    model = nn.Sequential(*modules, Head(channels))
    x = torch.randn(2, 3, 8, 8)
    program = cut(model, x)  # verifies: disjoint, one entry, one exit, the same function

    covered = [name for piece in (*program.slots, *program.left_out) for name in piece.nodes]
    computing = [n.name for n in program.nodes.values() if n.op not in ("placeholder", "output")]
    assert sorted(covered) == sorted(computing)
    assert program.left_out == ()  # a chain leaves nothing out
    for slot in program.slots:
        assert program.specs[slot.input] == slot.input_spec
        assert program.specs[slot.output] == slot.output_spec
    parameters = {id(p) for slot in program.slots for p in program.teacher_op(slot).parameters()}
    assert parameters == {id(p) for p in model.parameters()}
