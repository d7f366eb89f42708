from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.errors import TraceError
from lanac.frontend.tracing import trace
from lanac.ir import TensorSpec

X = torch.randn(4, 3, 6, 6)


class NormAct(nn.BatchNorm2d):
    """A batch norm with its activation, written as libraries do: `if self.training`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        momentum = self.momentum if self.training else 0.0
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            momentum or 0.0,
            self.eps,
        )
        return self.act(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), NormAct(4)

    def forward(self, x: Tensor, p: float = 0.5, mask: Tensor | None = None) -> Tensor:
        torch._assert(x.size(1) == 3, "three channels")
        x = self.norm(self.conv(x))
        if mask is not None:
            x = x * mask
        return F.dropout(x, p, self.training)


def test_the_graph_computes_what_the_model_computes_with_its_weights() -> None:
    model = Net().train()
    traced = trace(model, (X,))
    graph, specs = traced.module, traced.specs
    assert not model.training and not graph.training
    assert torch.equal(graph(X), model(X))
    assert graph.get_parameter("conv.weight") is model.conv.weight
    assert specs["norm"] == TensorSpec((4, 4, 4, 4), torch.float32)


def test_a_module_that_asks_for_training_switches_as_before() -> None:
    graph = trace(Net(), (X,)).module
    norm = graph.get_submodule("norm")
    assert isinstance(norm, NormAct)
    graph.eval()(X)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    graph.train()(X)
    assert not torch.equal(norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize("function", [F.dropout, F.dropout2d])
@pytest.mark.parametrize("by_name", [True, False])
def test_functional_dropout_switches_as_before(function: Any, by_name: bool) -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if by_name:
                return function(input=x, p=0.25, training=self.training)
            return function(x, 0.25, self.training)

    ones = torch.ones(2, 64, 8, 8)
    graph = trace(Dropping(), (ones,)).module
    assert torch.equal(graph.eval()(ones), ones)
    dropped = graph.train()(ones)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert 0.05 < float((dropped == 0).float().mean()) < 0.5


def test_asserts_and_defaults_leave_no_trace() -> None:
    graph = trace(Net(), (X,)).module
    assert [(node.op, str(node.target)) for node in graph.graph.nodes] == [
        ("placeholder", "x"),
        ("call_module", "conv"),
        ("call_module", "norm"),
        ("call_module", "dropout_module"),
        ("output", "output"),
    ]


def test_default_arguments_of_any_kind_are_kept() -> None:
    class Defaults(nn.Module):
        def forward(
            self,
            x: Tensor,
            flag: bool = True,
            factor: float = 2.0,
            sizes: tuple[int, int] = (2, 3),
            mode: str = "sum",
            extra: Tensor | None = None,
            *,
            bias: int = 1,
        ) -> dict[str, Any]:
            if flag and extra is None and mode == "sum":
                return {"y": [x * factor + sizes[1] + bias, x]}
            return {"y": x}

    graph = trace(Defaults(), (X,)).module
    assert torch.equal(graph(X)["y"][0], X * 2 + 3 + 1)
    assert [node.name for node in graph.graph.nodes if node.op == "placeholder"] == ["x"]


def test_nested_outputs_come_as_they_are() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"a": [x, (y, 3)], "b": x + y}

    outputs = trace(Nested(), (X, X)).module(X, X)
    assert type(outputs) is dict
    assert torch.equal(outputs["a"][1][0], X)
    assert outputs["a"][1][1] == 3


def message_of(model: nn.Module, *inputs: Tensor) -> str:
    with pytest.raises(TraceError) as caught:
        trace(model, inputs)
    return str(caught.value)


def test_an_input_that_does_not_fit() -> None:
    assert message_of(nn.Linear(3, 2), torch.zeros(2, 4)) == (
        "the model fails on its example input of shape (2, 4): RuntimeError: "
        "mat1 and mat2 shapes cannot be multiplied (2x4 and 3x2). "
        "Check that train_data() (or example_inputs()) gives what model() expects."
    )


def test_control_flow_that_depends_on_values() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    line = Branching.forward.__code__.co_firstlineno + 1
    assert message_of(Branching(), X) == (
        "Branching cannot be traced: a condition depends on the values of a tensor, in "
        f"{__file__}, line {line}: return x if x.sum() > 0 else -x. Move this out of forward(), or "
        "into a module of its own, which lanac then keeps as it is."
    )


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class AlwaysDropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, True)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize("model", [Noisy(), AlwaysDropping(), Counting()], ids=repr)
def test_a_forward_that_is_no_function_is_refused(model: nn.Module) -> None:
    assert message_of(model, X) == (
        "the traced graph does not compute what the model computes on its example input. "
        "Random numbers or state in forward() are the usual reason."
    )


def test_a_factory_in_a_trace_does_not_spoil_later_traces() -> None:
    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(x.shape[-1])

    trace(Counted(), (X,))
    assert torch.equal(fx.symbolic_trace(nn.ReLU())(X), X.relu())
