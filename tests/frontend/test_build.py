"""Whole programs of small networks, as text."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.errors import ProgramError, TraceError
from lanac.frontend.build import build_program
from lanac.frontend.partition import LAYER, SlotOptions
from lanac.ir import Program


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Block(nn.Module):
    """A residual block with squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = layer(width, width), nn.Conv2d(width, width, 3, 1, 1)
        self.reduce, self.expand = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        gate = self.expand(F.relu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(x + y * gate)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.down = layer(3, 4), Block(4), layer(4, 6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.down(self.block(self.stem(x))).mean((2, 3)))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2, self.middle = layer(3, 4), layer(4, 4, 2), layer(4, 4, 2)
        self.dec2, self.dec1, self.out = layer(8, 4), layer(8, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc1(x)
        b = self.enc2(a)
        c = self.middle(b)
        b = self.dec2(torch.cat([b, F.interpolate(c, scale_factor=2)], 1))
        a = self.dec1(torch.cat([a, F.interpolate(b, size=a.shape[-2:])], 1))
        return self.out(a)


class Fpn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = layer(3, 4), layer(4, 8, 2)
        self.lateral1, self.lateral2 = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)
        self.out1, self.out2 = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        p2 = self.lateral2(c2)
        p1 = self.lateral1(c1) + F.interpolate(p2, size=c1.shape[-2:])
        return {"p1": self.out1(p1), "p2": self.out2(p2)}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(Encoder(), Encoder())
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth = layer(3, 4), layer(1, 4)
        self.body, self.a, self.b = layer(8, 8), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(torch.cat([self.image(image), self.depth(depth)], 1))
        return self.a(x), self.b(x)


RESIDUAL = """\
slot   0 stem   f32[N,3,8,8] -> f32[N,4,8,8]  (3 nodes: stem_0 .. stem_2)
slot   1 block  f32[N,4,8,8] -> f32[N,4,8,8]  (12 nodes: block_conv1_0 .. relu_1)
slot   2 down   f32[N,4,8,8] -> f32[N,6,4,4]  (3 nodes: down_0 .. down_2)
slot   3 head   f32[N,6,4,4] -> f32[N,3]  (2 nodes: mean_1 .. head)"""

UNET = """\
slot   0 enc1    f32[N,3,8,8] -> f32[N,4,8,8]  (3 nodes: enc1_0 .. enc1_2)
slot   1 enc2    f32[N,4,8,8] -> f32[N,4,4,4]  (3 nodes: enc2_0 .. enc2_2)
slot   2 middle  f32[N,4,4,4] -> f32[N,4,4,4]  (4 nodes: middle_0 .. interpolate)
slot   3 dec2    f32[N,8,4,4] -> f32[N,4,4,4]  (3 nodes: dec2_0 .. dec2_2)
slot   4 dec1    f32[N,8,8,8] -> f32[N,4,8,8]  (3 nodes: dec1_0 .. dec1_2)
slot   5 out     f32[N,4,8,8] -> f32[N,2,8,8]  (1 nodes: out .. out)
left out: interpolate_1: no weights
left out: cat, cat_1: no region with one tensor in and one tensor out
left out: getattr_1, getitem: sizes, no tensors"""

FPN = """\
slot   0 c1        f32[N,3,8,8] -> f32[N,4,8,8]  (3 nodes: c1_0 .. c1_2)
slot   1 c2.0      f32[N,4,8,8] -> f32[N,4,4,4]  (4 nodes: c2_0 .. lateral2)
slot   2 lateral1  f32[N,4,8,8] -> f32[N,4,8,8]  (1 nodes: lateral1 .. lateral1)
slot   3 out1      f32[N,4,8,8] -> f32[N,4,8,8]  (1 nodes: out1 .. out1)
slot   4 out2      f32[N,4,4,4] -> f32[N,4,4,4]  (1 nodes: out2 .. out2)
left out: interpolate: no weights
left out: add: no region with one tensor in and one tensor out
left out: getattr_1, getitem: sizes, no tensors"""

TRANSFORMER = """\
slot   0 embed       f32[N,3,8,8] -> f32[N,8,2,2]  (1 nodes: embed .. embed)
slot   1 blocks.0    f32[N,4,8] -> f32[N,4,8]  (23 nodes: getattr_1 .. add)
slot   2 blocks.0_2  f32[N,4,8] -> f32[N,4,8]  (5 nodes: blocks_0_norm2 .. add_1)
slot   3 blocks.1    f32[N,4,8] -> f32[N,4,8]  (23 nodes: getattr_2 .. add_2)
slot   4 blocks.1_2  f32[N,4,8] -> f32[N,4,8]  (6 nodes: blocks_1_norm2 .. norm)
slot   5 head        f32[N,4,8] -> f32[N,3]  (2 nodes: mean .. head)
left out: flatten, transpose: no weights"""

TWO = """\
slot   0 image  f32[N,3,8,8] -> f32[N,4,8,8]  (3 nodes: image_0 .. image_2)
slot   1 depth  f32[N,1,8,8] -> f32[N,4,8,8]  (3 nodes: depth_0 .. depth_2)
slot   2 body   f32[N,8,8,8] -> f32[N,8,8,8]  (3 nodes: body_0 .. body_2)
slot   3 a      f32[N,8,8,8] -> f32[N,2,8,8]  (1 nodes: a .. a)
slot   4 b      f32[N,8,8,8] -> f32[N,1,8,8]  (1 nodes: b .. b)
left out: cat: no region with one tensor in and one tensor out"""

IMAGE, DEPTH = torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
NETWORKS: dict[str, tuple[type[nn.Module], tuple[Tensor, ...], str]] = {
    "residual with squeeze and excite": (Residual, (IMAGE,), RESIDUAL),
    "U-Net": (Unet, (IMAGE,), UNET),
    "FPN": (Fpn, (IMAGE,), FPN),
    "transformer": (Transformer, (IMAGE,), TRANSFORMER),
    "two inputs and two outputs": (Two, (IMAGE, DEPTH), TWO),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_slots_of_small_networks(name: str) -> None:
    make, inputs, text = NETWORKS[name]
    program = build_program(make(), inputs)
    assert program.print() == text
    assert build_program(make(), inputs).print() == text  # the same every time


def names(program: Program) -> list[str]:
    return [slot.name for slot in program.slots]


def test_by_layer_a_block_falls_apart() -> None:
    program = build_program(Residual(), (IMAGE,), options=SlotOptions(LAYER))
    assert names(program) == [
        "stem",
        "block.conv1",
        "block.conv2",
        "block.reduce",
        "block.expand",
        "down",
        "head",
    ]


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        (("blocks",), (), ["blocks.0", "blocks.0_2", "blocks.1", "blocks.1_2"]),
        (("blocks.1",), (), ["blocks.1", "blocks.1_2"]),
        (("*.fc?",), (), ["blocks.0", "blocks.1"]),
        ((), ("blocks.*", "head"), ["embed"]),
        (("blocks", "head"), ("blocks.0",), ["blocks.1", "blocks.1_2", "head"]),
    ],
)
def test_patterns_of_paths(
    only: tuple[str, ...], skip: tuple[str, ...], expected: list[str]
) -> None:
    program = build_program(Transformer(), (IMAGE,), options=SlotOptions(only=only, skip=skip))
    assert names(program) == expected


def test_inputs_by_name_in_any_order() -> None:
    model = Two().eval()
    program = build_program(model, (DEPTH, IMAGE), names=("depth", "image"))
    assert names(program) == ["image", "depth", "body", "a", "b"]
    outputs, expected = program.split()(DEPTH, IMAGE), model(IMAGE, DEPTH)
    assert all(map(torch.equal, outputs, expected))


def test_nothing_can_become_a_slot() -> None:
    with pytest.raises(ProgramError, match="nothing in Sequential can become a slot"):
        build_program(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (IMAGE,))


def test_the_model_is_as_before() -> None:
    model = Residual().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: set(vars(part)) for name, part in model.named_modules()}
    build_program(model, (IMAGE,))
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: set(vars(part)) for name, part in model.named_modules()} == attributes


class WritesThroughAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = layer(3, 4), layer(4, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x))
        half = y[:, :2]
        half.sub_(3)
        return self.head(y)


def test_a_write_that_nobody_reads_by_name_is_kept() -> None:
    model = WritesThroughAView().eval()
    program = build_program(model, (IMAGE,))
    assert names(program) == ["one", "two", "head"]
    assert torch.equal(program.split()(IMAGE), model(IMAGE))


class TestWhatTorchFxDoesNotSee:
    """torch.export takes over where the graph of torch.fx differs from the model."""

    def test_a_condition_on_types_and_a_write_through_a_view(self) -> None:
        class Typed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

            def forward(self, x: Tensor) -> Tensor:
                if isinstance(x, Tensor):
                    x = x * 2
                y = self.one(x)
                half = y[:, :2]
                half += 1
                return self.two(y.relu())

        model = Typed()
        program = build_program(model, (torch.randn(2, 3, 4, 4),))
        assert [slot.name for slot in program.slots] == ["one", "two"]
        assert program.notes == (
            "traced by torch.export, because torch.fx cannot: it does not see all that the network "
            "does (a condition on types, a context such as autocast, a write through a view). "
            "Batch norm and dropout stay as they are in evaluation",
        )
        x = torch.randn(5, 3, 4, 4)
        torch.testing.assert_close(program.split()(x), model(x))

    def test_a_model_that_is_random_stays_refused(self) -> None:
        class Random(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one = nn.Conv2d(3, 8, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.one(x) + torch.rand(1)

        with pytest.raises(TraceError, match=r"has random numbers or state in forward\(\)"):
            build_program(Random(), (torch.randn(2, 3, 4, 4),))
