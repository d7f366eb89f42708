"""Slots that read sizes and constants: the border is closed, and the batch stays free."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lanac.frontend.build import build_program
from lanac.ir import Program

X = torch.randn(2, 3, 8, 8)
BATCHES = [torch.randn(count, 3, 8, 8) for count in (1, 2, 5)]


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


def built(model: nn.Module) -> Program:
    """The program, shown to be equal for other batch sizes."""
    program = build_program(model.eval(), (X,))
    for x in BATCHES:
        assert torch.equal(program.split()(x), model(x))
    return program


class Windows(nn.Module):
    """Sizes are read at the top and used in all blocks; windows are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = conv()
        self.mix = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, c, h, w = x.shape
        for mix in self.mix:
            y = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c).transpose(2, 3)
            y = mix(y.reshape(b * h * w // 4, 4, c))
            y = y.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
            x = x + y.permute(0, 3, 1, 2)
        return x


def test_sizes_from_elsewhere_and_multiples_of_the_batch() -> None:
    program = built(Windows())
    assert [slot.name for slot in program.slots] == ["embed", "mix", "mix_2"]
    for slot in program.slots:
        op = program.teacher_op(slot)
        for count in (1, 3):
            assert op(torch.randn(count, *slot.input_spec.sample_shape)).shape[0] == count


class Rotary(nn.Module):
    """A constant made of a buffer once and read by all blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.randn(8))
        self.convs = nn.ModuleList(conv() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        angle = self.steps.cos() * 2
        for each in self.convs:
            x = x + each(x * angle)
        return x


def test_a_shared_constant_is_computed_again_inside() -> None:
    program = built(Rotary())
    assert [slot.name for slot in program.slots] == ["convs", "convs_2", "convs_3"]
    assert not any("weight" in part.reason for part in program.left_out)


class Resizing(nn.Module):
    """A size of the inside of a slot is read behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(), conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        inner = y.relu()
        z = self.two(inner)
        return self.three(z).reshape(inner.shape[0], inner.shape[1], -1)


def test_a_size_read_outside_does_not_open_a_slot() -> None:
    names = [slot.name for slot in built(Resizing()).slots]
    assert names == ["one", "two", "three"]


class WindowsBehind(nn.Module):
    """The number of windows, four per sample, is read off a tensor inside, behind the slot."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.one(x).reshape(-1, 2, 4)
        y = self.two(windows).reshape(x.shape[0], 8, 4) + x
        return self.three(y).reshape(windows.shape[0], 2, 4)


def test_the_number_of_windows_is_read_off_what_leaves() -> None:
    model, x = WindowsBehind(), torch.randn(2, 8, 4)
    program = build_program(model, (x,))
    assert [slot.name for slot in program.slots] == ["one", "three"]
    more = torch.randn(5, 8, 4)
    assert torch.equal(program.split()(more), model(more))


class SharedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.free = conv(), conv(), conv()
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.free(self.two(self.one(x).relu()).relu())


def test_tied_weights_are_left_out_and_nothing_else() -> None:
    program = built(SharedWeight())
    assert [slot.name for slot in program.slots] == ["free"]
    assert {part.reason for part in program.left_out} == {
        "weight one.weight is also used elsewhere"
    }


class UsedOutside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(), conv()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.two(self.one(x)), self.one.weight.square().sum()


def test_a_weight_that_is_used_outside() -> None:
    program = build_program(UsedOutside(), (X,))
    assert [slot.name for slot in program.slots] == ["two"]
