from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.ir import OpSpec
from lanac.ops import SlotView
from lanac.ops.build import build_op
from lanac.ops.shrink_se import FAMILY, find_gates

MakeView = Callable[..., SlotView]


class Gated(nn.Module):
    """A gate between two layers; `where` says what stands beside it."""

    def __init__(self, where: str = "behind") -> None:
        super().__init__()
        self.where = where
        self.one, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.reduce, self.restore = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.two = nn.Conv2d(8, 4, 3, 1, 1, groups=4 if where == "grouped" else 1)
        self.out = nn.Conv2d(8, 4, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.norm.running_mean.uniform_(-0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.one(x))
        if self.where not in ("before",):
            x = x.relu()
        pooled = x.mean((2, 3), keepdim=True)
        gate = self.restore(self.reduce(pooled).relu()).sigmoid()
        if self.where == "viewed":
            gate = gate.view(x.shape[0], -1, 1, 1)
        x = gate * x
        if self.where in ("before", "beside"):
            return self.out(x.tanh())
        return self.two(x)


def constant_gate(module: Gated) -> Gated:
    """Factors that are the same for every input."""
    with torch.no_grad():
        module.restore.weight.zero_()
        module.restore.bias.uniform_(-2, 2)
    return module.eval()


def built(view: SlotView) -> nn.Module:
    return build_op(OpSpec("shrink_se"), view, 0)


WHERE = ["behind", "grouped", "before", "beside", "viewed"]


@pytest.mark.parametrize("where", WHERE)
def test_a_constant_gate_is_replaced_exactly(make_view: MakeView, where: str) -> None:
    module, x = constant_gate(Gated(where)), torch.randn(32, 4, 6, 6)
    student = built(make_view(module, x, x))
    other = torch.randn(5, 4, 9, 7)
    with torch.no_grad():
        assert module(other).std() > 0.01
        assert torch.allclose(student(other), module(other), atol=1e-5)
    names = {name.split(".")[0] for name, _ in student.named_parameters()}
    assert {"reduce", "restore"}.isdisjoint(names)
    # Only where no linear layer stands next to it does the factor stay by itself.
    assert [name for name in names if name.startswith("scale")] == (
        ["scale_of_mul"] if where == "beside" else []
    )


@pytest.mark.parametrize("where", WHERE)
def test_the_structure_does_not_depend_on_the_calibration(make_view: MakeView, where: str) -> None:
    module, x = Gated(where).eval(), torch.randn(40, 4, 6, 6)
    fitted, plain = (built(make_view(module, x, c)) for c in (x, None))
    plain.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(x), fitted(x))


def test_fitting_never_hurts_on_the_calibration_samples(make_view: MakeView) -> None:
    module, x = Gated().eval(), torch.randn(64, 4, 6, 6)
    with torch.no_grad():
        module.restore.weight.mul_(20)
        wanted = module(x)
        fitted = built(make_view(module, x, x))(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lanac.ops.shrink_se.refit", lambda *_, **__: None)
            plain = built(make_view(module, x, x))(x)
        assert (fitted - wanted).square().sum() <= (plain - wanted).square().sum()


class NoGate(nn.Module):
    """Products that are no gates of the tensor that they scale."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.kind == "other":  # pools another tensor than it scales
            return y * self.two(x).mean((2, 3), keepdim=True)
        if self.kind == "spatial":  # one factor per place
            return y * y.mean(1, keepdim=True).sigmoid()
        return y * self.two(y)


@pytest.mark.parametrize("kind", ["other", "spatial", "product"])
def test_other_products_stay(make_view: MakeView, kind: str) -> None:
    assert list(FAMILY.enumerate(make_view(NoGate(kind), torch.zeros(2, 4, 5, 5)))) == []


def test_gates_of_networks_that_are_known_to_have_them() -> None:
    import timm

    from lanac.frontend.build import build_program

    for name, expected in (("efficientnet_b0", 16), ("resnest14d", 0), ("regnety_002", 13)):
        model = timm.create_model(name, pretrained=False).eval()
        program = build_program(model, (torch.randn(2, 3, 64, 64),))
        views = [SlotView.of(program, slot) for slot in program.slots]
        gates = [gate for v in views for gate in find_gates(v.teacher, v.inner_specs)]
        assert (name, len(gates)) == (name, expected)


def test_it_trains_traces_and_the_teacher_stays(make_view: MakeView) -> None:
    module, x = Gated("beside"), torch.randn(8, 4, 6, 6)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    student = built(make_view(module, x, x)).train()
    student(torch.randn(3, 4, 7, 5)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    fx.symbolic_trace(student)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
