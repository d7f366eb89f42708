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
        "the traced graph does not compute what the model computes on its example input "
        "(output has other values). The model itself computes something else the second time: it "
        "has random numbers or state in forward(). Take them out, at least in eval mode."
    )


def test_a_factory_in_a_trace_does_not_spoil_later_traces() -> None:
    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(x.shape[-1])

    trace(Counted(), (X,))
    assert torch.equal(fx.symbolic_trace(nn.ReLU())(X), X.relu())


class CountingInABuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[Any] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last = x * 2
        self.seen.append(self.last)
        return self.last


def test_what_a_module_stores_is_no_proxy_afterwards() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), CountingInABuffer())
    trace(model, (X,))
    assert type(model[1].last) is Tensor
    assert {type(value) for value in model[1].seen} == {Tensor}
    assert type(model[1].calls) is Tensor
    assert model[1].calls == len(model[1].seen)  # real runs only


def test_the_model_gets_no_attributes() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tensor([1.0, 2.0, 3.0])[:, None, None]

    model = Constant()
    before = set(vars(model))
    graph = trace(model, (X,)).module
    assert set(vars(model)) == before
    assert torch.equal(graph(X), model(X))


def test_hooks_on_the_model_and_a_forward_set_on_it_are_traced() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.register_forward_hook(lambda module, args, output: output * 2)
    own = model.forward
    model.forward = lambda x: own(x) - 3  # type: ignore[method-assign]
    assert torch.equal(trace(model, (X,)).module(X), (model[0](X + 1) - 3) * 2)


def test_not_a_number_is_what_the_model_computes() -> None:
    class Dividing(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, float]:
            return x / 0 * 0, float("nan")

    assert trace(Dividing(), (X,)).module(X)[0].isnan().all()


def test_a_condition_on_types_is_refused() -> None:
    class Asking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if isinstance(x, Tensor) else x

    assert message_of(Asking(), X) == (
        "the traced graph does not compute what the model computes on its example input "
        "(output has other values). A condition on types (isinstance(x, Tensor)), a context such "
        "as autocast, or a write that cannot be seen (+= on a view, out=, x.data = ...) is the "
        "usual reason; rewrite it."
    )


def test_a_context_that_changes_the_dtype_is_refused() -> None:
    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16):
                return self.conv(x)

    assert (
        "(output is (4, 3, 6, 6) torch.float32, expected (4, 3, 6, 6) torch.bfloat16). A condition"
    ) in message_of(Autocast(), X)


def test_an_empty_batch_shows_nothing() -> None:
    assert message_of(nn.Linear(6, 2), X[:0]) == (
        "the example input has no samples: nothing could be compared. Check that train_data() "
        "(or example_inputs()) gives at least one."
    )


def test_a_graph_that_does_not_run_says_where() -> None:
    class Mapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(lambda row: row * 2)(x)

    message = message_of(Mapped(), X)
    assert message.startswith("the traced graph does not run at %mul : ")
    assert message.endswith(
        "Functions that call functions (torch.vmap) and gradients inside forward() cannot be "
        "traced; take them out."
    )
