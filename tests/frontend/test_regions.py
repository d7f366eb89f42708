from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from lanac.frontend.regions import Flow, Region


def flow(function: Callable[..., object], hidden: tuple[tuple[str, str], ...] = ()) -> Flow:
    """The flow of a function in which every node is a tensor."""
    graph = fx.Tracer().trace(function)
    names = [node.name for node in graph.nodes if node.op != "output"]
    return Flow(graph, names, names, hidden)


def chain(x: Tensor) -> Tensor:
    return x.sin().cos().tan()


def skip(x: Tensor) -> Tensor:
    y = x.sin()
    return y.cos() + y


def long_skip(x: Tensor) -> Tensor:
    y = x.sin()
    return y.cos().tan().exp() + y


def test_a_chain_falls_into_single_nodes() -> None:
    found = flow(chain).outermost()
    assert found == [Region("x", ("sin",)), Region("sin", ("cos",)), Region("cos", ("tan",))]


def test_a_skip_holds_its_branch_together() -> None:
    assert flow(skip).outermost() == [Region("x", ("sin",)), Region("sin", ("cos", "add"))]


def test_regions_inside_a_region() -> None:
    outer = flow(long_skip)
    whole = outer.outermost()[-1]
    assert whole.nodes == ("cos", "tan", "exp", "add")
    assert [region.nodes for region in outer.outermost(whole)] == [("cos",), ("tan",), ("exp",)]


def test_a_value_that_is_returned_ends_a_region() -> None:
    def two(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        z = y.cos()
        return z.tan(), z

    assert Region("sin", ("cos", "tan")) not in flow(two).outermost()
    assert "tan" in flow(two).regions


def test_what_does_not_depend_on_the_input_is_not_in_the_flow() -> None:
    def constant(x: Tensor) -> Tensor:
        return x.sin() + torch.ones(3).cos()

    assert "sin" in flow(constant)
    assert "ones" not in flow(constant)


def test_what_does_not_reach_the_output_is_not_in_the_flow() -> None:
    def unused(x: Tensor) -> Tensor:
        x.sin()
        return x.cos()

    assert "sin" not in flow(unused)


def test_a_hidden_read_holds_nodes_together() -> None:
    assert Region("cos", ("tan",)) in flow(chain).outermost()
    assert flow(chain, (("sin", "tan"),)).outermost()[-1] == Region("sin", ("cos", "tan"))


def test_chains_end_where_a_value_is_read_twice() -> None:
    def fork(x: Tensor) -> Tensor:
        y = x.sin().cos()
        return torch.cat([y.tan().exp(), y.log()])

    found = flow(fork)
    whole = found.outermost()[-1]
    chains = found.chains(found.outermost(whole))
    assert [[region.exit for region in each] for each in chains] == [["tan", "exp"], ["log"]]


def test_no_way_from_input_to_output() -> None:
    def constant(x: Tensor) -> int:
        return 3

    assert flow(constant).outermost() == []
