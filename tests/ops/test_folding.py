"""Folding in general: what it finds, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.errors import PoolError
from lanac.ops.folding import Foldable, folded, is_foldable


class Twice(Foldable):
    """x + x, folded to a multiplication."""

    def __init__(self, gives: object = None) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 2, 1)
        self.gives = gives

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.inner(x)

    def fold(self) -> nn.Module:
        if self.gives is not None:
            return self.gives  # type: ignore[return-value]
        result = nn.Conv2d(2, 2, 1)
        result.load_state_dict({name: 2 * value for name, value in self.inner.state_dict().items()})
        return result


def branches_in(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, Foldable)]


X = torch.randn(2, 2, 3, 3)


@pytest.mark.parametrize(
    "module",
    [
        Twice(),
        nn.Sequential(nn.ReLU(), Twice()),
        nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential(Twice())), Twice()),
        fx.symbolic_trace(nn.Sequential(nn.ReLU())),
    ],
    ids=["itself", "a part", "deep", "nothing"],
)
def test_every_part_is_folded_in_a_copy(module: nn.Module) -> None:
    module.train()
    count = len(branches_in(module))
    before = copy.deepcopy(module.state_dict())
    result = folded(module)
    assert is_foldable(module) == (count > 0)
    assert not is_foldable(result) and branches_in(result) == []
    assert not any(part.training for part in result.modules())
    # The original trains on.
    assert len(branches_in(module)) == count and module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(result(X), module.eval()(X), atol=1e-6)
    mine = {value.data_ptr() for value in module.parameters()}
    assert mine.isdisjoint(value.data_ptr() for value in result.parameters())


def test_parts_of_a_graph_are_folded() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_module("first", (x,))
    z = graph.call_module("inside.second", (y,))
    graph.output(graph.call_function(torch.add, (y, z)))
    root = {"first": nn.Sequential(Twice()), "inside.second": Twice()}
    module = fx.GraphModule(nn.ModuleDict({}), fx.Graph())
    module = fx.GraphModule(root, graph, class_name="Student")
    result = folded(module)
    assert isinstance(result, fx.GraphModule)
    assert branches_in(result) == []
    assert str(result.graph) == str(module.graph)
    with torch.no_grad():
        assert torch.allclose(result(X), module(X), atol=1e-6)


def test_a_part_that_is_used_twice_stays_one_part() -> None:
    shared = Twice()
    result = folded(nn.Sequential(nn.Sequential(shared), nn.ReLU(), shared))
    assert result.get_submodule("0.0") is result.get_submodule("2")


def test_another_packages_method_of_that_name_is_not_called() -> None:
    class Paper(nn.Module):
        def fold(self) -> None:
            raise AssertionError

    assert isinstance(folded(Paper()), Paper)


def test_a_part_that_fails() -> None:
    class Broken(Twice):
        def fold(self) -> nn.Module:
            raise ZeroDivisionError("zero")

    with pytest.raises(PoolError) as caught:
        folded(nn.Sequential(Broken()))
    assert str(caught.value) == "Broken cannot be folded: ZeroDivisionError: zero"


@pytest.mark.parametrize("gives", [3, nn.Sequential(Twice())], ids=["no module", "still foldable"])
def test_a_part_that_does_not_fold(gives: object) -> None:
    with pytest.raises(PoolError) as caught:
        folded(Twice(gives))
    assert str(caught.value) == (
        f"Twice.fold() gives {type(gives).__name__}, expected a torch.nn.Module without foldable "
        "parts"
    )
