"""Groups of channels: what is found in a slot, and that what is taken out leaves a working op."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ir import record_specs
from lanac.ops.channels import ChannelGroup, Channels
from lanac.ops.narrowing import narrow


class TwoConvs(nn.Module):
    """A residual block with one inner group, conv1 -> bn1 -> relu -> conv2."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.bn1.running_mean.uniform_(-0.1, 0.1)
        self.bn1.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class GatedInverted(nn.Module):
    """An inverted residual with depthwise convolution and squeeze-excite gate."""

    def __init__(self, channels: int, inner: int, squeezed: int) -> None:
        super().__init__()
        self.expand, self.bn = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, 2, 1, groups=inner)
        self.reduce, self.restore = nn.Conv2d(inner, squeezed, 1), nn.Conv2d(squeezed, inner, 1)
        self.project = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(F.silu(self.bn(self.expand(x))))
        gate = self.restore(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.project(gate * x)


def groups_of(module: nn.Module, x: Tensor) -> tuple[ChannelGroup, ...]:
    graph = fx.symbolic_trace(module.eval())
    return Channels.of(graph, record_specs(graph, (x,))[0]).groups


def plain_groups(module: nn.Module, x: Tensor) -> list[tuple[Any, ...]]:
    return [
        (g.size, sorted(g.producers), sorted(g.followers), sorted(path for path, _ in g.consumers))
        for g in groups_of(module, x)
    ]


def test_the_inner_channels_of_a_residual_block_are_free() -> None:
    assert plain_groups(TwoConvs(8, 16), torch.zeros(2, 8, 6, 6)) == [
        (16, ["conv1"], ["bn1"], ["conv2"])
    ]


def test_a_gate_and_a_depthwise_layer_belong_to_the_expanded_channels() -> None:
    assert plain_groups(GatedInverted(8, 24, 4), torch.zeros(2, 8, 6, 6)) == [
        (24, ["expand", "restore"], ["bn", "depthwise"], ["project", "reduce"]),
        (4, ["reduce"], [], ["restore"]),
    ]


@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), [3, 2]])
def test_a_mean_over_space_passes_channels_on(dims: Any) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).mean(dims, keepdim=True))

    assert plain_groups(Gate(), torch.zeros(2, 3, 4, 4)) == [(8, ["a"], [], ["b"])]


def test_a_mean_over_one_dimension_at_a_time() -> None:
    class Gate(nn.Module):
        def __init__(self, *dims: int) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
            self.dims = dims

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y = x
            for dim in self.dims:
                y = y.mean(dim, keepdim=True)
            return self.b(x * y)

    x = torch.zeros(2, 3, 4, 4)
    assert plain_groups(Gate(2, 3), x) == [(8, ["a"], [], ["b"])]
    assert plain_groups(Gate(1), x) == []  # over the channels: all of them are needed


@pytest.mark.parametrize("kind", ["mixing", "softmax", "twice", "chunk", "exit"])
def test_what_is_not_understood_keeps_its_channels(kind: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if kind == "mixing":
                return self.b(y.cumsum(1))
            if kind == "softmax":
                return self.b(y.softmax(1))
            if kind == "twice":
                return self.b(self.a(y))
            if kind == "chunk":
                left, right = y.chunk(2, 1)
                return torch.cat([left, right], 1) + self.b(x)
            return self.b(y) + y

    found = plain_groups(Odd(), torch.zeros(2, 8, 3, 3))
    assert [group for group in found if "a" in group[1]] == []


def test_channels_reach_a_classifier_through_pooling() -> None:
    head = nn.Sequential(
        nn.Conv2d(4, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    assert plain_groups(head, torch.zeros(2, 4, 5, 5)) == [(16, ["0"], [], ["3"])]


def test_a_channel_of_flattened_space_is_all_its_places() -> None:
    head = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Flatten(), nn.Linear(16 * 25, 3))
    (group,) = groups_of(head, torch.zeros(2, 4, 5, 5))
    assert (group.size, group.width, group.consumers) == (16, 25, [("2", "_1")])


class Attention(nn.Module):
    """Attention with a fused projection: one function, or two products and a table of biases."""

    def __init__(self, channels: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.heads, self.fused, self.channels = heads, fused, channels
        self.table = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("places", torch.arange(5)[:, None] - torch.arange(5) + 4)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        size = self.channels // self.heads
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.heads, size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            bias = self.table[self.places.view(-1)].view(5, 5, self.heads).permute(2, 0, 1)
            y = self.softmax((q @ k.transpose(-2, -1)) * size**-0.5 + bias.unsqueeze(0)) @ v
        return x + self.proj(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.channels))


class Gated(nn.Module):
    """A gated MLP: one half of a projection scales the other."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(channels, 2 * inner), nn.Linear(inner, channels)
        self.norm = nn.LayerNorm(inner)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.up(x).chunk(2, -1)
        return self.down(self.norm(F.silu(left) * right))


class Branches(nn.Module):
    """Concatenated branches, one of them of two grouped convolutions; a split by bounds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, 24, 1), nn.Conv2d(channels, 32, 1)
        self.grouped = nn.Conv2d(32, 64, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 64)
        self.last = nn.Conv2d(24 + 64, channels, 1)
        self.again = nn.Conv2d(24, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.one(x), self.norm(self.grouped(self.two(x)))], 1)
        return self.last(y) + self.again(y[:, :24])


IMAGES, TOKENS = torch.zeros(2, 8, 6, 6), torch.zeros(2, 5, 32)
NETWORKS: dict[str, tuple[Any, Tensor]] = {
    "residual": (lambda: TwoConvs(8, 32), IMAGES),
    "gate": (lambda: GatedInverted(8, 32, 16), IMAGES),
    "heads": (lambda: Attention(32, 4, True), TOKENS),
    "products": (lambda: Attention(32, 4, False), TOKENS),
    "gated": (lambda: Gated(32, 48), TOKENS),
    "branches": (lambda: Branches(8), IMAGES),
}


@pytest.mark.parametrize("fused", [True, False])
def test_heads_go_as_a_whole(fused: bool) -> None:
    (group,) = groups_of(Attention(32, 4, fused), TOKENS)
    assert (group.size, group.width) == (4, 8)
    assert (group.producers, group.consumers) == (["qkv"], [("proj", group.consumers[0][1])])


def test_both_halves_of_a_gated_mlp_go_together() -> None:
    (group,) = groups_of(Gated(32, 48), TOKENS)
    assert (group.size, group.width, group.producers) == (48, 1, ["up"])
    assert (group.followers, [path for path, _ in group.consumers]) == (["norm"], ["down"])


def test_branches_are_groups_of_their_own_and_grouped_convolutions_go_group_by_group() -> None:
    assert plain_groups(Branches(8), IMAGES) == [
        (24, ["one"], [], ["again", "last"]),
        (4, ["two"], ["grouped", "norm"], ["last"]),
    ]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_taking_out_what_nobody_reads_changes_nothing(name: str, seed: int) -> None:
    """Any units may go: where their readers' weights are zero the function stays."""
    torch.manual_seed(seed)
    make, x = NETWORKS[name]
    module = make().eval()
    if name == "gated":
        module.norm = nn.Identity()  # a norm over the channels sees that some are missing
    graph = fx.symbolic_trace(module)
    channels = Channels.of(graph, record_specs(graph, (x,))[0])
    removed = []
    for group in channels.groups:
        count = int(torch.randint(0, group.size, ()))
        units = group.units[torch.randperm(group.size)[:count]]
        removed.append(units)
        for path, _ in group.consumers:
            read = torch.isin(channels.walk.unions.roots(channels.walk.layers[path].inputs), units)
            with torch.no_grad():
                graph.get_submodule(path).weight[:, read] = 0
    narrowed = copy.deepcopy(graph)
    narrow(narrowed, channels.walk, torch.cat(removed))
    narrowed.graph.lint()
    inputs = torch.randn(3, *x.shape[1:])
    with torch.no_grad():
        assert torch.allclose(narrowed(inputs), graph(inputs), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_narrowed_takes_other_sizes_and_trains(name: str) -> None:
    make, x = NETWORKS[name]
    graph = fx.symbolic_trace(make().eval())
    channels = Channels.of(graph, record_specs(graph, (x,))[0])
    narrow(
        graph,
        channels.walk,
        torch.cat([group.units[: group.size // 2] for group in channels.groups]),
    )
    tokens = 5 if name == "products" else 9  # its table is for five
    shape = (1, x.shape[1], 9, 9) if x.dim() == 4 else (1, tokens, x.shape[2])
    graph(torch.randn(shape)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())
