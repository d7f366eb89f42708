from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.frontend.tracer import (
    ShapeTracer,
    Undecidable,
    asks_for_training,
    larger_batch,
    other_batch,
)
from lanac.frontend.tracing import trace
from lanac.ir import set_items_

X = torch.arange(2 * 4 * 6 * 6, dtype=torch.float32).reshape(2, 4, 6, 6)


class Calls(nn.Module):
    """A module whose forward is the given function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def traced(model: nn.Module, *inputs: Tensor, **options: Any) -> fx.GraphModule:
    model.eval()
    return fx.GraphModule(model, ShapeTracer(inputs or (X,), **options).trace(model))


def targets(module: fx.GraphModule, op: str) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == op]


# What Python has to know, decided by shapes --------------------------------------------------------


def condition_on_a_size(x: Tensor) -> Tensor:
    return x + 1 if x.shape[2] > 4 else x - 1


def condition_on_the_rank(x: Tensor) -> Tensor:
    return x + 1 if x.dim() == 4 and x.ndim != 3 else x - 1


def condition_on_computed_sizes(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    missing = (-height) % 4, (-width) % 4
    return F.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x


def length_of_a_tuple(x: Tensor) -> Tensor:
    return x * len(x.chunk(3, 1)) * len(x.shape)


def loop_over_pieces(x: Tensor) -> Tensor:
    return torch.stack([piece * place for place, piece in enumerate(x.split(1, 1))])


def loop_over_a_range(x: Tensor) -> Tensor:
    total = x[:, 0]
    for place in range(1, x.shape[1]):
        total = total + place * x[:, place]
    return total


def size_in_a_list(x: Tensor) -> Tensor:
    return x + 1 if x.shape[2] in (6, 7) else x


def stars(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1).reshape(*x.shape).permute(*range(x.dim()))


def whole_number(x: Tensor) -> Tensor:
    return x * int(x.shape[2] ** 0.5) + float(x.shape[3])


def named_items(x: Tensor) -> Tensor:
    found = OrderedDict(a=x, b=x * 2)
    return sum(found[name] for name in found) + sum(dict(**found).values())  # type: ignore[return-value]


def kind_of_device(x: Tensor) -> Tensor:
    return x + 1 if x.device.type == "cpu" and x.dtype == torch.float32 else x


DECIDED = [
    condition_on_a_size, condition_on_the_rank, condition_on_computed_sizes, length_of_a_tuple,
    loop_over_pieces, loop_over_a_range, size_in_a_list, stars, whole_number, named_items,
    kind_of_device,
]  # fmt: skip


@pytest.mark.parametrize("function", DECIDED, ids=lambda f: f.__name__)
def test_shapes_decide_and_the_batch_stays_free(function: Callable[..., Any]) -> None:
    module = traced(Calls(function))
    for x in (X, X[:1], torch.cat([X, X, X])):
        assert torch.equal(module(x), function(x))


def made_of_the_batch(x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[0])[:, None, None, None] + torch.zeros(x.shape[0], 1, 1, 1)


def windows(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = x.view(b, c, h // 3, 3, w // 3, 3).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 3, 3)
    return x.reshape(b, h // 3, w // 3, c, 3, 3).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def written_items(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:] = x[:, :-1]
    y[..., 0] += x.shape[0]
    y[:, 0][y[:, 0] > 9] = 9
    return y.exp()


@pytest.mark.parametrize(
    "function", [made_of_the_batch, windows, written_items], ids=lambda f: f.__name__
)
def test_what_is_computed_of_the_batch_is_not_baked(function: Callable[..., Any]) -> None:
    module = traced(Calls(function))
    for x in (X, X[:1], torch.cat([X, X])):
        assert torch.equal(module(x), function(x))


def test_written_items_stay_where_a_graph_is_traced_again() -> None:
    module = traced(nn.Sequential(Calls(written_items)))
    again = fx.symbolic_trace(module)
    assert torch.equal(again(X), written_items(X))
    assert [node.target for node in again.graph.nodes].count(set_items_) == 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.shape[0] > 2 else -x, "a condition depends on the batch size"),
        (lambda x: [v * 2 for v in x], "the number of items depends on the batch size"),
        (lambda x: x * int(x.shape[0]), "a whole number depends on the batch size"),
        (lambda x: x if x.mean() > 0 else -x, "a condition depends on the values of a tensor"),
        (lambda x: x * float(x.max()), "a number depends on the values of a tensor"),
        (
            lambda x: x if x.reshape(5, -1).dim() else -x,
            "a condition is not decided by shapes (RuntimeError: shape '[5, -1]' is invalid for "
            "input of size 288)",
        ),
    ],
    ids=["batch", "items", "number", "values", "value", "fails"],
)
def test_what_shapes_do_not_decide(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(Undecidable) as caught:
        traced(Calls(function))
    assert str(caught.value) == message


def test_inputs_without_a_common_batch_decide_alone() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return x + table if x.shape[0] == 2 else x

    module = traced(Two(), X, torch.ones(1, 4, 6, 6))
    assert torch.equal(module(X, torch.ones(1, 4, 6, 6)), X + 1)


# What is kept whole --------------------------------------------------------------------------------


class Padding(nn.Conv2d):
    """A convolution with a padding of its own."""

    def forward(self, x: Tensor) -> Tensor:
        extra = (-x.shape[-1]) % 4
        return super().forward(F.pad(x, (0, extra, 0, extra)))


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5) if self.training else x


class Wrapping(nn.Module):
    """Asks for training, and holds a layer: it must be looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if not self.training else self.layer(x) * 2


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad, self.drop, self.wrap = Padding(4, 4, 1), Dropping(), Wrapping()

    def forward(self, x: Tensor) -> Tensor:
        return self.wrap(self.drop(self.pad(x)[..., :6, :6]))


def test_switches_and_layers_with_code_of_their_own_stay_whole() -> None:
    assert targets(traced(Parts()), "call_module") == ["pad", "drop", "wrap.layer"]


def test_opaque_modules_are_called_as_a_whole() -> None:
    module = traced(Parts(), opaque=frozenset({"wrap"}))
    assert targets(module, "call_module") == ["pad", "drop", "wrap"]


class Several(nn.Module):
    """An opaque module may give anything."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"pair": (x + 1, x + 2), "one": x}


def test_an_opaque_module_that_gives_no_tensor() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.several = Several()

        def forward(self, x: Tensor) -> Tensor:
            found = self.several(x)
            first, second = found["pair"]
            return first * second + found["one"] if "one" in found else first

    module = traced(Reading(), opaque=frozenset({"several"}))
    assert targets(module, "call_module") == ["several"]
    assert torch.equal(module(X[:1]), Reading()(X[:1]))


class Straight(torch.autograd.Function):
    """Rounds forward, and lets the gradient through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Straight.apply(x)  # type: ignore[no-any-return]


def test_a_backward_of_its_own_is_not_lost() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Rounding())
    before = vars(torch.autograd.Function)["apply"]
    message = r"^Straight \(torch.autograd.Function\) has its own backward$"
    with pytest.raises(Undecidable, match=message):
        traced(model)
    module = trace(model, (X,)).module
    assert targets(module, "call_module") == ["0", "1"]
    x = X.clone().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    assert vars(torch.autograd.Function)["apply"] is before


def test_whether_code_asks_for_training() -> None:
    assert asks_for_training(Dropping.forward)
    assert not asks_for_training(Padding.forward)
    assert not asks_for_training(len)


# Weights, buffers and arguments --------------------------------------------------------------------


def test_a_buffer_is_a_node_and_a_number_is_none() -> None:
    class Scaling(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(4))
            self.weight = nn.Parameter(torch.ones(1))
            self.factor = 3

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale[None, :, None, None] * self.weight * self.factor

    model = Scaling()
    module = traced(model)
    assert sorted(targets(module, "get_attr")) == ["scale", "weight"]
    model.scale.mul_(2)
    assert torch.equal(module(X), X * 6)


def test_arguments_by_position_by_name_and_any_number() -> None:
    class Any_(nn.Module):
        def forward(self, x: Tensor, *more: Tensor, scale: float = 2.0) -> Tensor:
            return (x + sum(more)) * scale

    class Keywords(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, *, bias: Tensor) -> Tensor:
            return x + bias if mask is None else x * mask + bias

    assert targets(traced(Any_(), X, X, X), "placeholder") == ["x", "more_0", "more_1"]
    module = traced(Keywords(), X, X, names=("bias", "x"))
    assert targets(module, "placeholder") == ["bias", "x"]
    assert torch.equal(module(bias=X, x=X * 2), X * 3)


def test_a_dictionary_that_is_a_dataclass_stays_one() -> None:
    @dataclass
    class Output(OrderedDict):  # type: ignore[type-arg]
        logits: Tensor
        hidden: Tensor | None = None

    def give(x: Tensor) -> Any:
        return Output(logits=x * 2)

    output = traced(Calls(give))(X)
    assert type(output) is Output
    assert torch.equal(output.logits, X * 2)
    assert output.hidden is None


# Other batch sizes ---------------------------------------------------------------------------------


def test_other_batch_sizes() -> None:
    one = X[:1]
    assert [tuple(v.shape) for v in other_batch((X, X)) or ()] == [(1, 4, 6, 6)] * 2
    assert [tuple(v.shape) for v in other_batch((one,)) or ()] == [(2, 4, 6, 6)]
    assert [tuple(v.shape) for v in larger_batch((X,)) or ()] == [(7, 4, 6, 6)]


@pytest.mark.parametrize("inputs", [(X, X[:1]), (X, torch.tensor(1.0))], ids=["sizes", "scalar"])
def test_no_common_batch(inputs: tuple[Tensor, ...]) -> None:
    assert other_batch(inputs) is None
    assert larger_batch(inputs) is None
