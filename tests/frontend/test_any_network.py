"""Random networks: whatever they are made of, the program computes what the network computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.errors import ProgramError
from lanac.frontend.build import build_program
from lanac.frontend.partition import BLOCK, LAYER, SlotOptions
from lanac.ir import Program, Slot, flatten_tensors

C = 4
"""Channels between the parts of a network."""


def conv(inputs: int = C, outputs: int = C, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def layer(inputs: int = C, outputs: int = C, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layer(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + x, inplace=True)


class PreActivated(nn.Module):
    """Writes into its own input, which the skip reads after that."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(C), conv()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(self.act(x)))


class AddsInPlace(nn.Module):
    """`add_` as a statement, whose value nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        y.add_(x)
        y += 1
        return self.two(y)


class WritesThroughAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        half = y[:, : C // 2]
        half.mul_(2)
        z = self.two(y)
        y[:, 0] = z[:, 0]
        return y + z


class Unet(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.down, self.inner, self.up = layer(stride=2), inner, layer(2 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.down(x))
        y = F.interpolate(y, size=x.shape[-2:])
        return self.up(torch.cat([x, y], 1))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(C * (i + 1), C) for i in range(3))
        self.transition = conv(4 * C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for each in self.layers:
            features.append(each(torch.cat(features, 1)))
        return self.transition(torch.cat(features, dim=1))


class Branches(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.join = first, second, conv(2 * C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.first(x), self.second(x)], 1))


class Split(nn.Module):
    """A CSP stage: half of the channels go around."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.inner, self.join = conv(C, 2 * C), Residual(), conv(2 * C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        around, through = self.grow(x).chunk(2, dim=1)
        return self.join(torch.cat([around, self.inner(through)], 1))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.reduce, self.expand = layer(), conv(C, 2, 1), conv(2, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Attention(nn.Module):
    def __init__(self, by_hand: bool = False) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(C), nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.by_hand = by_hand

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        t = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm(t)).reshape(b, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.by_hand:
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        t = t + self.proj(y.transpose(1, 2).reshape(b, h * w, c))
        return t.transpose(1, 2).reshape(b, c, h, w)


class Windows(nn.Module):
    """Windows are folded into the batch, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.proj = nn.Linear(C, C), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        t = torch.roll(x, (1, 1), (2, 3)).permute(0, 2, 3, 1)
        t = t.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        t = self.proj(F.gelu(self.mix(t)))
        t = t.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
        return x + t.permute(0, 3, 1, 2)


class Positions(nn.Module):
    """Adds what is made of a buffer and of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.randn(C))
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        row = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / x.shape[-1]
        grid = self.scale[:, None, None] * row + torch.zeros(x.shape[0], 1, 1, 1)
        return self.conv(x + grid) / math.sqrt(x.shape[1])


class Twice(nn.Module):
    """One module, used at two places."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared, self.between = shared, conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.between(self.shared(x)))


class Exchange(nn.Module):
    """Two resolutions that read each other, as in HRNet."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.fine, self.coarse = conv(C, C, 3, 2), Residual(), Residual()
        self.up, self.down = conv(C, C, 1), conv(C, C, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.fine(x), self.coarse(self.low(x))
        mixed = fine + F.interpolate(self.up(coarse), scale_factor=2)
        low = coarse + self.down(fine)
        return F.relu(mixed) + F.interpolate(low, size=mixed.shape[2:], mode="nearest")


class Steered(nn.Module):
    """Control flow on data: it is kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if float(x.abs().max()) > 1e3 else x + self.conv(x)


class Activation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        F.leaky_relu(x, 0.1, inplace=True)
        return x


LEAVES: dict[str, Callable[[], nn.Module]] = {
    "layer": layer,
    "residual": Residual,
    "pre-activated": PreActivated,
    "add_": AddsInPlace,
    "view": WritesThroughAView,
    "dense": Dense,
    "split": Split,
    "gate": Gate,
    "attention": Attention,
    "attention by hand": lambda: Attention(by_hand=True),
    "windows": Windows,
    "positions": Positions,
    "exchange": Exchange,
    "steered": Steered,
    "relu_": lambda: nn.ReLU(inplace=True),
    "activation": Activation,
    "norm": lambda: nn.BatchNorm2d(C),
    "dropout": lambda: nn.Dropout(0.1),
}
HOLDERS: dict[str, Callable[..., nn.Module]] = {
    "chain": nn.Sequential,
    "u": lambda *parts: Unet(nn.Sequential(*parts)),
    "branches": lambda *parts: Branches(parts[0], nn.Sequential(*parts[1:])),
    "twice": lambda *parts: Twice(nn.Sequential(*parts)),
}

Plan = Any
"""Name of a leaf, or a holder's name with the plans of its parts."""


def built(plan: Plan) -> nn.Module:
    if isinstance(plan, str):
        return LEAVES[plan]()
    kind, parts = plan
    return HOLDERS[kind](*map(built, parts))


class Network(nn.Module):
    def __init__(self, plans: list[Plan], outputs: str) -> None:
        super().__init__()
        self.stem = conv(3, C)
        self.body = nn.Sequential(*map(built, plans))
        self.head, self.outputs = nn.Linear(C, 3), outputs

    def forward(self, x: Tensor) -> Any:
        stem = self.stem(x)
        y = self.body(stem)
        logits = self.head(y.mean((2, 3)))
        if self.outputs == "dict":
            return {"logits": logits, "features": [stem, y]}
        return logits


def network(plans: list[Plan], outputs: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Network(plans, outputs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
    return model.eval()


plans = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda inner: st.tuples(
        st.sampled_from(sorted(HOLDERS)), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


class Copy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class Fresh(nn.Module):
    """An op for any slot: it takes the slot's input and gives its output shape."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.shape = slot.output_spec.sample_shape

    def forward(self, x: Tensor) -> Tensor:
        size = math.prod(self.shape)
        flat = torch.sin(x.reshape(x.shape[0], -1) * 3)
        times = -(-size // flat.shape[1])
        return flat.repeat(1, times)[:, :size].reshape(x.shape[0], *self.shape)


class Replacing(fx.Interpreter):
    """Runs all of the teacher, and replaces the one value that leaves a slot."""

    def __init__(self, program: Program, slot: Slot, op: nn.Module) -> None:
        super().__init__(program.teacher)
        self.slot, self.op = slot, op

    def run_node(self, n: fx.Node) -> Any:
        if n.name == self.slot.nodes[0] or self.entry is None:
            entry = next((v for k, v in self.env.items() if k.name == self.slot.input), None)
            self.entry = None if entry is None else entry.clone()
        value = super().run_node(n)
        return self.op(self.entry) if n.name == self.slot.output else value

    entry: Tensor | None = None


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(flatten_tensors(a), flatten_tensors(b), strict=True))
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


X = {count: torch.randn(count, 3, 8, 8) for count in (1, 2, 3)}


@torch.no_grad()
def check(model: nn.Module, granularity: str, pick: int | None = None) -> Program | None:
    """All invariants, with all slots replaced one by one, or only one of them."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        program = build_program(model, (X[2],), options=SlotOptions(granularity))
    except ProgramError as error:
        assert "can become a slot" in str(error)
        return None
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])

    split = program.split()
    for x in X.values():
        assert same(split(x.clone()), model(x.clone()))

    covered = [name for piece in (*program.slots, *program.left_out) for name in piece.nodes]
    computing = [n.name for n in program.nodes.values() if n.op not in ("placeholder", "output")]
    assert sorted(covered) == sorted(computing)

    chosen = program.slots if pick is None else [program.slots[pick % len(program.slots)]]
    for slot, x in itertools.product(chosen, X.values()):
        op = Fresh(slot)
        expected = Replacing(program, slot, op).run(x.clone())
        assert same(program.rewrite({slot.name: op})(x.clone()), expected), slot
    for slot in chosen:
        if slot.input_spec == slot.output_spec:
            by_copy = program.rewrite({slot.name: Copy()})(X[2].clone())
            assert same(program.rewrite({slot.name: nn.Identity()})(X[2].clone()), by_copy), slot
    return program


@pytest.mark.parametrize("granularity", [BLOCK, LAYER])
@pytest.mark.parametrize("kind", sorted(LEAVES))
def test_each_part_behind_a_block(kind: str, granularity: str) -> None:
    assert check(network(["residual", kind], "tensor"), granularity) is not None


@settings(max_examples=12)
@given(
    st.lists(plans, max_size=4),
    st.sampled_from(["tensor", "dict"]),
    st.sampled_from([BLOCK, LAYER]),
    st.integers(0, 30),
)
def test_any_network_comes_back_unharmed(
    plans: list[Plan], outputs: str, granularity: str, pick: int
) -> None:
    check(network(plans, outputs), granularity, pick)
