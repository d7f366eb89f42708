"""Every op of the pools in every kind of slot: it builds, learns, runs as ONNX, and costs what it says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lanac.backends.onnxruntime import export_for_timing, session
from lanac.ir import OpSpec, TensorSpec
from lanac.ops import FAMILIES, SlotView
from lanac.ops.base import CountedFamily
from lanac.ops.build import build_op
from lanac.ops.folding import folded
from lanac.ops.pool import NAMED_POOLS
from lanac.targets.counting import count_flops, count_params

MakeView = Callable[..., SlotView]

FRESH = [name for name in NAMED_POOLS["paper"] if name != "identity"]
INHERITING = [name for name in NAMED_POOLS["inherit"] if name != "identity"]


def grid_of(name: str, view: SlotView) -> list[OpSpec]:
    return list(FAMILIES.get(name).enumerate(view))


def check(op: OpSpec, view: SlotView) -> None:
    """Everything that holds for every op in every slot."""
    module = build_op(op, view, seed=0)
    _check_learning(op, module, view)
    for part in module.modules():  # as training leaves them: what folds batch norms has to be right
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.3, 1.5)  # type: ignore[arg-type]
    runs = folded(module.eval())
    _check_export(op, runs, module, view)
    family = FAMILIES.get(op.family)
    if op.family in FRESH:
        assert isinstance(family, CountedFamily)
        x = torch.zeros(view.input_spec.with_batch(1).shape)
        assert family.count(op, view) == (count_params(runs), count_flops(runs, (x,))), op


def _check_learning(op: OpSpec, module: nn.Module, view: SlotView) -> None:
    batch = 5 if math.prod(view.input_spec.sample_shape) < 20_000 else 2
    module.train()
    y = module(torch.randn(batch, *view.input_spec.sample_shape))
    assert TensorSpec.of(y) == view.output_spec.with_batch(batch), op
    (y - torch.randn_like(y)).square().mean().backward()
    # Where one key is all there is, its share is always one, whatever query and key say.
    alone = math.prod(view.output_spec.sample_shape[1:]) == 1
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, (op, name)
        assert bool(parameter.grad.isfinite().all()), (op, name)
        assert alone or bool(parameter.grad.any()), (op, name)


def _check_export(op: OpSpec, runs: nn.Module, module: nn.Module, view: SlotView) -> None:
    x = torch.randn(2, *view.input_spec.sample_shape)
    (found,) = session(export_for_timing(runs, (x,)), threads=1).run(
        None, {"timed_input_0": x.numpy()}
    )
    with torch.no_grad():
        expected = module(x)
    largest = float(expected.abs().max())
    assert largest > 1e-3, op
    torch.testing.assert_close(
        torch.from_numpy(found), expected, rtol=0, atol=2e-4 * largest, msg=lambda m: f"{op}: {m}"
    )


# Fresh ops --------------------------------------------------------------------------------------


def test_one_op_of_every_fresh_family(slot: SlotView) -> None:
    """Another one in each slot, so that the slots together see much of the grids."""
    fitting = {name: grid_of(name, slot) for name in FRESH}
    assert all(fitting.values()) == (slot.kind == "map")  # tokens have attention alone
    assert fitting["vit"]
    place = sum(slot.input_spec.sample_shape)
    for ops in filter(None, fitting.values()):
        check(ops[place * 7 % len(ops)], slot)


@pytest.mark.slow
@pytest.mark.parametrize("name", FRESH)
def test_every_fresh_op(slot: SlotView, name: str) -> None:
    for op in grid_of(name, slot):
        check(op, slot)


# Ops that inherit -------------------------------------------------------------------------------


class Inverted(nn.Module):
    """What all inheriting families change: a gate, SiLU, a depthwise 5x5, dense layers."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 4 * inputs
        self.expand, self.bn1 = nn.Conv2d(inputs, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 5, stride, 2, groups=inner, bias=False)
        self.bn2, self.act = nn.BatchNorm2d(inner), nn.SiLU()
        self.reduce, self.restore = nn.Conv2d(inner, 16, 1), nn.Conv2d(16, inner, 1)
        self.project, self.bn3 = nn.Conv2d(inner, outputs, 1), nn.BatchNorm2d(outputs)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn2(self.depthwise(self.act(self.bn1(self.expand(x))))))
        gate = self.restore(self.act(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        y = self.bn3(self.project(y * gate))
        return x + y if self.skip else y


class Mixer(nn.Module):
    """A transformer's block over tokens (B, N, C): attention of heads, then an MLP with GELU."""

    def __init__(self, width: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = nn.Linear(width, 96), nn.GELU(), nn.Linear(96, outputs)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return self.down(self.act(self.up(x)))


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "7": (lambda: Inverted(24, 24, 1), (24, 7, 7)),
    "7 wider": (lambda: Inverted(16, 40, 1), (16, 7, 7)),
    "14x9": (lambda: Inverted(16, 16, 1), (16, 14, 9)),
    "14 halved": (lambda: Inverted(16, 32, 2), (16, 14, 14)),
    "13x7 halved, as many": (lambda: Inverted(16, 16, 2), (16, 13, 7)),
    "28": (lambda: Inverted(12, 12, 1), (12, 28, 28)),
    "28 narrower": (lambda: Inverted(16, 8, 1), (16, 28, 28)),
    "56 halved": (lambda: Inverted(8, 16, 2), (8, 56, 56)),
    "112": (lambda: Inverted(8, 8, 1), (8, 112, 112)),
    "112 halved": (lambda: Inverted(8, 12, 2), (8, 112, 112)),
    "tokens": (lambda: Mixer(32, 4, 32), (17, 32)),
    "tokens wider": (lambda: Mixer(48, 3, 64), (49, 48)),
}
"""Slots by name: the slot's own op, and the shape of a sample."""


@pytest.mark.parametrize("name", OWN)
def test_every_inheriting_op(make_view: MakeView, name: str) -> None:
    make, shape = OWN[name]
    x = torch.randn(4, *shape)
    view = make_view(make(), x, x)
    grids = {family: grid_of(family, view) for family in INHERITING}
    maps = view.kind == "map"
    assert [len(ops) > 0 for ops in grids.values()] == [True, True, maps, True, maps]
    for ops in grids.values():
        for op in ops:
            check(op, view)
