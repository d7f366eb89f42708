from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.frontend.build import build_program
from lanac.frontend.cleanup import SwitchedCall
from lanac.frontend.tracing import trace

X = torch.randn(3, 4, 6, 6)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        p = 0.9 if self.training else 0.0
        return F.scaled_dot_product_attention(x, x, x, dropout_p=p)


def test_the_dropout_of_attention_switches() -> None:
    graph = trace(Attention(), (X,)).module
    assert [type(part) for part in graph.children()] == [SwitchedCall]
    assert torch.equal(graph.eval()(X), Attention().eval()(X))
    assert (graph.train()(X) == 0).any()


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class Holder(nn.Module):
    """Has a layer with weights, so that its own code is traced through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)


@pytest.mark.parametrize("model", [Norm(), Holder()], ids=["leaf", "traced through"])
def test_functional_batch_norm_switches(model: nn.Module) -> None:
    graph = trace(model, (X,)).module
    mean = model.get_buffer("mean")
    assert torch.equal(mean, torch.zeros(4))  # tracing in training has moved nothing
    graph.eval()(X)
    assert torch.equal(mean, torch.zeros(4))
    graph.train()(X)
    assert not torch.equal(mean, torch.zeros(4))


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.extra = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.conv(x)
        return (y, self.extra(y)) if self.training else y


def test_what_differs_in_training_is_noted() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    assert trace(model, (X,)).notes == ()
    traced = trace(Auxiliary(), (X,))
    assert len(traced.notes) == 1
    assert "differs in training; the student keeps to what it does in evaluation" in traced.notes[0]


class WithAHead(nn.Module):
    """A head of several modules that is there in training alone, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.head = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.conv(x)
        return (y, self.head(y)) if self.training else y


def test_what_is_there_in_training_alone_is_noted_once() -> None:
    assert trace(nn.Sequential(WithAHead()), (X,)).notes == (
        "0.head differs in training; the student keeps to what it does in evaluation",
    )


class ReadsBoth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.relu_()
        return y + 1


def test_later_readers_read_the_node_that_wrote() -> None:
    graph = trace(ReadsBoth(), (X,)).module
    assert [str(node.args[0]) for node in graph.graph.nodes if node.name == "add"] == ["relu_"]


class Boxes(nn.Module):
    """Decodes in evaluation, as detectors do."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sigmoid()
        y[..., :2] = y[..., :2] * 2
        y[..., 2:] = y[..., 2:] ** 2
        return y


class SeenElsewhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.sigmoid()
        y[:, 0][..., 1] = 7
        return y


def test_items_are_written_into_copies_so_that_gradients_flow() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Boxes()(x).sum().backward()
    module = trace(Boxes(), (x.detach(),)).module
    assert torch.equal(module(x), Boxes()(x))
    module(x).sum().backward()
    assert x.grad is not None and bool(x.grad.all())


def test_what_others_see_is_written_in_place() -> None:
    x = torch.randn(2, 3, 4)
    module = trace(SeenElsewhere(), (x,)).module
    assert torch.equal(module(x), SeenElsewhere()(x))
    assert not [node for node in module.graph.nodes if node.target == "clone"]


def test_state_is_written_in_place() -> None:
    class Remembering(nn.Module):
        last: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(4))
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.last[0] = x.sum()
            return self.layer(x)

    model = Remembering()
    module = trace(model, (torch.ones(2, 4),)).module
    module(torch.full((2, 4), 3.0))
    assert float(model.last[0]) == 24


class Rows(nn.Module):
    """Views that exist for maps with channels last only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.rows = nn.Linear(8, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        b, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).view(b * h * w, c)
        rows = rows + self.rows(rows)
        return self.head(rows.view(b, h, w, c).permute(0, 3, 1, 2))


def test_channels_last_is_carried_through_and_other_formats_fit_too() -> None:
    model = Rows().to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    program = build_program(model, (x,))
    assert [slot.name for slot in program.slots] == ["body", "rows"]
    assert program.teacher(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(program.split()(x), model(x))
    # The slot `body` ends in rows of pixels; its own are a view that exists in that format only.
    student = program.rewrite({"body": Contiguous()})
    rows = Contiguous()(x).reshape(72, 8)
    rows = rows + model.rows(rows)
    expected = model.head(rows.reshape(2, 6, 6, 8).permute(0, 3, 1, 2))
    torch.testing.assert_close(student(x), expected)


class Contiguous(nn.Module):
    """(B, 3, H, W) -> (B, H, W, 8), of which no view has all pixels in one dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].expand(-1, 8, -1, -1).contiguous().permute(0, 2, 3, 1)


def test_a_view_that_is_written_through_and_one_of_other_types_stay() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.view(-1).mul_(3)
            return y.view(torch.int32).view(torch.float32).view(x.shape[0], -1).view_as(y)

    x = torch.randn(2, 4)
    module = trace(Views(), (x,)).module
    assert torch.equal(module(x), Views()(x))
    methods = [node.target for node in module.graph.nodes if node.op == "call_method"]
    assert methods == ["view", "mul_", "view", "view", "reshape", "reshape_as"]


def test_a_view_that_is_read_by_keyword() -> None:
    class Keywords(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.view(x.shape[0], -1)
            return torch.add(input=y, other=y)

    x = torch.randn(2, 2, 3)
    module = trace(Keywords(), (x,)).module
    assert torch.equal(module(x), 2 * x.flatten(1))
    assert "reshape" in {node.target for node in module.graph.nodes}
