from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanac.frontend.exporting import export_graph

X = torch.randn(2, 3, 8, 8)
Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        # A condition on types is what torch.fx does not see.
        return self.norm(self.conv(x)) if isinstance(x, Tensor) else x


class Net(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Inner(), nn.Linear(4, 5)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.body(x).mean((2, 3)) * self.scale
        return self.head(x if mask is None else x * mask)


def test_any_batch_with_the_names_and_the_weights_of_the_model() -> None:
    model = Net().eval()
    module = export_graph(model, (X,))
    for x in (X, X[:1], torch.randn(5, 3, 8, 8)):
        torch.testing.assert_close(module(x), model(x))
    ours, theirs = (dict(m.named_parameters()) for m in (module, model))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)


def test_an_example_of_one_sample_does_not_fix_the_batch() -> None:
    model = Net().eval()
    module = export_graph(model, (X[:1],))
    torch.testing.assert_close(module(X), model(X))


def test_inputs_by_name() -> None:
    model = Net().eval()
    mask = torch.randn(2, 4)
    module = export_graph(model, (X, mask), ("x", "mask"))
    torch.testing.assert_close(module(x=X, mask=mask), model(X, mask))


def nested(x: Tensor) -> Any:
    return {"list": [x + 1, (x + 2,)], "pair": Pair(x, -x)}


def of_a_class(x: Tensor) -> Any:
    return Output(logits=x * 2)


@pytest.fixture
def registered_output() -> None:
    """torch.export knows only classes that it was told of."""
    if Output not in torch.utils._pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(Output)


@pytest.mark.usefixtures("registered_output")
@pytest.mark.parametrize("function", [nested, of_a_class], ids=lambda f: f.__name__)
def test_outputs_come_as_they_are(function: Any) -> None:
    class Giving(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    given, expected = export_graph(Giving().eval(), (X,))(X), function(X)
    if function is of_a_class:
        assert type(given) is Output and given.hidden is None
        assert torch.equal(given.logits, expected.logits)
        return
    assert list(given) == ["list", "pair"]
    assert torch.equal(given["list"][0], X + 1) and torch.equal(given["list"][1][0], X + 2)
    assert type(given["pair"]) is Pair and torch.equal(given["pair"].second, -X)


def test_what_depends_on_the_batch_is_refused() -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.shape[0] > 3 else x - 1

    # 2 is in the example; the other branch would be lost without a word.
    with pytest.raises(Exception, match=r"(?i)batch|guard|specializ|constraint"):
        export_graph(Choosing().eval(), (X,))
