from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.frontend.merging import RegionFacts, merge_affine, merge_regions
from lanac.frontend.partition import find_regions
from lanac.frontend.regions import Flow, Region
from lanac.frontend.tracing import trace
from lanac.ir import Program

X = torch.randn(2, 4, 8, 8)


def facts_of(model: nn.Module, *inputs: Tensor) -> tuple[Flow, RegionFacts]:
    traced = trace(model, inputs or (X,))
    flow = Flow(traced.module.graph, traced.specs, traced.seen.carriers, traced.seen.hidden_reads)
    return flow, RegionFacts(Program(traced.module, (), traced.specs), flow)


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = conv(width, 2), conv(2, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Sum(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), x], 1)


def whole(model: nn.Module, *inputs: Tensor) -> tuple[RegionFacts, Region]:
    """The facts of a model that is one region, and that region."""
    flow, facts = facts_of(model, *inputs)
    return facts, max(flow.regions.values(), key=lambda region: len(region.nodes))


# Facts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "depth", "layers"),
    [
        (Sum(conv(4, 4), nn.ReLU(), conv(4, 4)), 2, 2),
        (Sum(nn.BatchNorm2d(4), nn.ReLU()), 0, 0),
        (Sum(conv(4, 4), Gate(4)), 1, 3),  # what sees a pooled map is not deep
        (Gate(4), 0, 2),
        (Sum(Sum(conv(4, 4)), conv(4, 4)), 2, 2),
    ],
    ids=["block", "norm", "gated", "gate", "nested"],
)
def test_depth_counts_layers_in_sequence(model: nn.Module, depth: int, layers: int) -> None:
    facts, region = whole(model)
    assert facts.depth(region) == depth
    assert len(facts.layers(region)) == layers
    assert facts.is_affine(region) is (layers == 0)


class Functional(nn.Module):
    """Layers that are written as functions of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.kernel)
        y = torch.matmul(y, self.matrix.t()) * self.scale
        return y + x


def test_a_function_of_a_weight_is_a_layer_and_a_scale_is_none() -> None:
    facts, region = whole(Functional())
    assert [name.split("_")[0] for name in facts.layers(region)] == ["conv2d", "matmul"]


def test_a_product_of_two_tensors_of_the_network_is_no_layer() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.matmul(x, x.transpose(2, 3)) @ x

    facts, region = whole(Attention())
    assert facts.layers(region) == []


@pytest.mark.parametrize(
    ("fact", "yes", "no"),
    [
        ("is_sum", Sum(conv(4, 4)), Gate(4)),
        ("is_gate", Gate(4), Sum(conv(4, 4))),
        ("passes_its_input_on", Concat(), Sum(conv(4, 4))),
    ],
)
def test_what_a_region_ends_in(fact: str, yes: nn.Module, no: nn.Module) -> None:
    for model, expected in ((yes, True), (no, False)):
        facts, region = whole(model)
        assert getattr(facts, fact)(region) is expected


def test_weights_used_elsewhere() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.own = conv(4, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.own(self.shared(x)))

    flow, facts = facts_of(Twice())
    shared = [facts.shares_weights(flow.regions[name]) for name in ("shared", "own", "shared_1")]
    assert shared == [True, False, True]


# Merging -------------------------------------------------------------------------------------------


def merged(
    model: nn.Module, merge: Callable[..., list[Region]] = merge_regions, *inputs: Tensor
) -> list[list[str]]:
    flow, facts = facts_of(model, *inputs)
    found: list[Region] = []
    for chain in flow.chains(flow.outermost(None)):
        found += merge(chain, facts)
    return [list(region.nodes) for region in found]


def sequence(**parts: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def test_norms_activations_and_pools_belong_to_the_layer_before() -> None:
    model = sequence(
        a=conv(4, 4), norm=nn.BatchNorm2d(4), act=nn.ReLU(), pool=nn.MaxPool2d(2), b=conv(4, 4)
    )
    assert merged(model) == [["a", "norm", "act", "pool"], ["b"]]


def test_what_comes_before_the_first_layer_belongs_to_it() -> None:
    assert merged(sequence(norm=nn.BatchNorm2d(4), a=conv(4, 4))) == [["norm", "a"]]


def test_a_pooling_head_is_one() -> None:
    model = sequence(
        a=conv(4, 4), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), hidden=nn.Linear(4, 4),
        act=nn.ReLU(), out=nn.Linear(4, 2),
    )  # fmt: skip
    assert merged(model) == [["a"], ["pool", "flat", "hidden", "act", "out"]]


INVERTED: dict[str, Any] = {"expand": conv(4, 8), "dw": conv(8, 8, 3, 8), "project": conv(8, 6)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (INVERTED, [["expand", "dw", "project"]]),
        ({**INVERTED, "act": nn.ReLU()}, [["expand"], ["dw"], ["project", "act"]]),
        ({"dw": conv(4, 4, 3, 4), "project": conv(4, 6)}, [["dw", "project"]]),
        ({"expand": conv(4, 8, 3), "project": conv(8, 6)}, [["expand", "project"]]),
        ({"expand": conv(4, 8, 1), "project": conv(8, 6)}, [["expand"], ["project"]]),
        ({"same": conv(4, 4, 3), "project": conv(4, 6)}, [["same"], ["project"]]),
        (
            {"narrow": conv(4, 2), "dw": conv(2, 2, 3, 2), "project": conv(2, 6)},
            [["narrow"], ["dw", "project"]],
        ),
    ],
    ids=["inverted", "with activation", "separable", "fused", "pointwise", "same", "narrow"],
)
def test_an_inverted_residual_without_a_skip(
    parts: dict[str, nn.Module], expected: list[list[str]]
) -> None:
    assert merged(sequence(**parts)) == expected
    # By layer every convolution is by itself.
    layers = [
        [name for name in nodes if name != "act"]
        for nodes in merged(sequence(**parts), merge_affine)
    ]
    assert layers == [[name] for name in parts if name != "act"]


def test_a_gate_belongs_to_its_layer_and_does_not_hide_a_depthwise_one() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dw, self.gate, self.project = conv(4, 4, 3, 4), Gate(4), conv(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.project(self.gate(self.dw(x)))

    (only,) = merged(Gated())
    assert only[0] == "dw" and only[-1] == "project"


def test_shared_weights_are_joined_with_nobody() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.BatchNorm2d(4), conv(4, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(self.norm(self.a(x))))

    assert merged(Twice()) == [["a"], ["norm"], ["b"], ["norm_1"]]


def test_a_size_from_elsewhere_keeps_a_resize_out() -> None:
    class Resizing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.a = nn.Conv2d(4, 4, 3, 2, 1), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(self.a(self.down(x)), size=x.shape[-2:])

    assert merged(Resizing()) == [["down"], ["a"], ["interpolate"]]


def test_a_change_of_form_stays_beside_a_block_that_keeps_its_shape() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Sum(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x.flatten(2).transpose(1, 2))

    flow, facts = facts_of(Tokens())
    found = [list(region.nodes) for region in find_regions(flow, facts)]
    assert found == [["flatten", "transpose"], ["block_body_0", "add"]]
