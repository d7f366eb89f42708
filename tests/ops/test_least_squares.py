from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lanac.ops.least_squares import NormalEquations, refit, renew_statistics
from lanac.ops.reference import ROWS, Reference
from lanac.training.batch_norm import current_statistics


def equations_of(x: Tensor, y: Tensor) -> NormalEquations:
    equations = NormalEquations(len(x), x.shape[2], y.shape[2])
    middle = x.shape[1] // 2
    equations.add(x[:, :middle], y[:, :middle])
    equations.add(x[:, middle:], y[:, middle:])
    return equations


def test_the_sums_are_those_of_all_rows() -> None:
    x, y = torch.randn(2, 9001, 3, dtype=torch.float64), torch.randn(2, 9001, 4).double()
    equations = equations_of(x, y)
    assert equations.rows == 9001
    assert torch.allclose(equations.gram, x.transpose(1, 2) @ x)
    assert torch.allclose(equations.moment, x.transpose(1, 2) @ y)
    centred = x - x.mean(1, keepdim=True)
    gram, moment = equations.centred()
    assert torch.allclose(gram, centred.transpose(1, 2) @ centred)
    assert torch.allclose(moment, centred.transpose(1, 2) @ y)


def test_a_map_that_gave_the_outputs_is_found() -> None:
    x, weights = torch.randn(2, 60, 5).double(), torch.randn(2, 5, 3).double()
    equations = equations_of(x, x @ weights + 7)
    start = torch.zeros_like(weights)
    found = equations.solve(start, intercept=True, ridge=0)
    assert torch.allclose(found, weights)
    mean, variance = equations.moments(found)
    product = (x @ weights).transpose(0, 1).flatten(1)
    assert torch.allclose(mean, product.mean(0))
    assert torch.allclose(variance, product.var(0, correction=0))


@settings(deadline=None)
@given(
    rows=st.integers(2, 40),
    inputs=st.integers(1, 12),
    ridge=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    intercept=st.booleans(),
)
def test_the_solution_is_never_worse_than_its_start(
    rows: int, inputs: int, ridge: float, intercept: bool
) -> None:
    x, y = torch.randn(1, rows, inputs).double(), torch.randn(1, rows, 3).double()
    start = torch.randn(1, inputs, 3).double()

    def error(weights: Tensor) -> float:
        left = y - x @ weights
        return float((left - left.mean(1, keepdim=True) if intercept else left).square().sum())

    if ridge == 0.0 and rows <= inputs + 1:
        return  # no single solution
    found = equations_of(x, y).solve(start, intercept=intercept, ridge=ridge)
    assert error(found) <= error(start) * (1 + 1e-9) + 1e-9


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    x, start = torch.randn(1, 50, 4).double(), torch.randn(1, 4, 2).double()
    x[..., 1] = 0
    found = equations_of(x, torch.randn(1, 50, 2).double()).solve(start, intercept=True)
    assert torch.equal(found[:, 1], start[:, 1])
    nothing = equations_of(0 * x, 0 * x[..., :2]).solve(start, intercept=False)
    assert torch.equal(nothing, start)


def test_renewed_statistics_compute_the_same_in_both_modes() -> None:
    norm = nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.uniform_(-2, 2)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(64, 3, 5, 5) * 3 + 1
    constant = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        wanted = norm(x + constant.float().view(1, 3, 1, 1))
        mean, variance = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)
        renew_statistics(norm, mean, variance, constant)
        assert torch.allclose(norm(x), wanted, atol=1e-5)
        with current_statistics(norm):
            assert torch.allclose(norm(x), wanted, atol=1e-5)


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 12, 3, padding=1)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.two, self.norm = nn.Conv2d(12, 4, 1, bias=bias), nn.BatchNorm2d(4)
        self.beside = nn.Conv2d(4, 4, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(self.deep(self.one(x).relu()))) + self.beside(x)


@pytest.mark.parametrize("bias", [True, False])
def test_what_was_disturbed_is_mended(bias: bool) -> None:
    """A map in front loses its scale: those behind it can give back what is lost, exactly."""
    teacher = fx.symbolic_trace(Block(bias).eval())
    x = torch.randn(64, 4, 8, 8)
    reference = Reference.of(teacher, x)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.one.weight.mul_(3)
        student.one.bias.mul_(3)
        student.deep.bias.add_(5)
        wanted = teacher(x)
        before = float((student(x) - wanted).square().mean())
        refit(student, reference, ["relu"])  # `one` itself is to stay as it is
        after = float((student(x) - wanted).square().mean())
    assert before > 0.1
    assert after < 1e-5 * before
    assert torch.equal(student.one.weight, 3 * teacher.one.weight)
    assert torch.equal(student.beside.weight, teacher.beside.weight)


def test_the_reference_is_what_the_teacher_gave_at_some_places() -> None:
    teacher = fx.symbolic_trace(Block(True).eval())
    x = torch.randn(90, 4, 8, 8)
    reference = Reference.of(teacher, x)
    assert list(reference.maps) == ["one", "deep", "two", "beside"]
    one = reference.maps["one"]
    assert one.shape == (90, 8, 8)
    assert len(one.places) == ROWS[0] == len(one.places.unique())
    with torch.no_grad():
        expected = teacher.one(x).movedim(1, -1).reshape(-1, 12)[one.places]
        assert torch.allclose(one.outputs, expected, atol=1e-6)
        hidden = teacher.one(x).relu()
    assert torch.allclose(reference.maps["deep"].energy, hidden.square().mean((0, 2, 3)))


def test_a_map_with_few_rows_keeps_its_weights() -> None:
    module = nn.Sequential(nn.Linear(4, 30), nn.SiLU(), nn.Linear(30, 4)).eval()
    teacher = fx.symbolic_trace(module)
    student = copy.deepcopy(teacher)
    refit(student, Reference.of(teacher, torch.randn(59, 4)), ["_1"])
    assert torch.equal(student.get_submodule("2").weight, module[2].weight)
    refit(student, Reference.of(teacher, torch.randn(60, 4)), ["_1"])
    assert not torch.equal(student.get_submodule("2").bias, module[2].bias)
