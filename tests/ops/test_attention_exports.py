"""Students with ops of attention as PyTorch source and as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends import onnx as onnx_backend
from lanac.backends import pytorch
from lanac.backends.onnx import export_model
from lanac.backends.onnxruntime import export_for_timing, session
from lanac.ir import parse_op
from lanac.ops import FAMILIES, SlotView
from lanac.ops.build import build_op
from lanac.targets import parse_target

CPU = parse_target("cpu")

MakeView = Callable[..., SlotView]

OPS = ["vit(d=1,w=32,h=4)", "bot(e=0.5)", "lambda(e=0.5)"]


def student_of(modules: Iterable[nn.Module]) -> fx.GraphModule:
    """A student that is a chain of slots."""
    graph, parts = fx.Graph(), {}
    value = graph.placeholder("x")
    for place, module in enumerate(modules):
        parts[f"slot{place}"] = with_statistics(module)
        value = graph.call_module(f"slot{place}", (value,))
    graph.output(value)
    return fx.GraphModule(parts, graph).eval()


def with_statistics(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.1, 0.5)  # type: ignore[arg-type]
    return module


def agrees(model: bytes, name: str, student: nn.Module, x: Tensor) -> None:
    (got,) = session(model, threads=1).run(None, {name: x.numpy()})
    with torch.no_grad():
        want = student(x)
    assert want.std() > 1e-3
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-3, atol=1e-4)


@pytest.fixture
def chain(make_view: MakeView) -> fx.GraphModule:
    """All families, with strides, patches and pooled keys: (B, 4, 70, 68) -> (B, 6, 9, 9)."""
    slots = [
        (OPS[1], nn.Conv2d(4, 4, 3, 1, 1), (4, 70, 68)),
        (OPS[0], nn.Conv2d(4, 8, 3, 2, 1), (4, 70, 68)),
        (OPS[0], nn.Conv2d(8, 8, 3, 1, 1), (8, 35, 34)),
        (OPS[2], nn.Conv2d(8, 6, 3, 4, 1), (8, 35, 34)),
    ]
    views = [(text, make_view(module, torch.zeros(2, *shape))) for text, module, shape in slots]
    return student_of(build_op(parse_op(text), view, 0) for text, view in views)


def test_emitted_source_computes_the_same(chain: fx.GraphModule, tmp_path: Path) -> None:
    x = torch.randn(3, 4, 70, 68)
    files = pytorch.BACKEND.emit(chain, tmp_path, (x,), CPU)
    (got,) = pytorch.BACKEND.load(files, CPU)(x)
    with torch.no_grad():
        assert torch.equal(got, chain(x))
    text = files[0].read_text()
    assert "lanac" not in text.split('"""', 2)[2]
    assert "F.scaled_dot_product_attention" in text
    assert "self.project_1 = nn.PixelShuffle(2)" in text  # patches are among what was tried,
    assert "self.layer_4_pool = nn.AvgPool2d(5, ceil_mode=True)" in text  # and pooled keys


def test_emitted_source_takes_another_resolution(chain: fx.GraphModule, tmp_path: Path) -> None:
    files = pytorch.BACKEND.emit(chain, tmp_path, (torch.randn(3, 4, 70, 68),), CPU)
    x = torch.randn(1, 4, 41, 90)
    (got,) = pytorch.BACKEND.load(files, CPU)(x)
    with torch.no_grad():
        assert torch.equal(got, chain(x))


@pytest.mark.parametrize("text", OPS)
def test_every_slot_as_source(slot: SlotView, text: str, tmp_path: Path) -> None:
    op = parse_op(text)
    if op not in list(FAMILIES.get(op.family).enumerate(slot)):
        pytest.skip("the family does not fit")
    student, x = student_of([build_op(op, slot, 0)]), torch.randn(slot.input_spec.shape)
    (got,) = pytorch.BACKEND.load(pytorch.BACKEND.emit(student, tmp_path, (x,), CPU), CPU)(x)
    with torch.no_grad():
        assert torch.equal(got, student(x))


def test_inherited_positions_are_emitted(make_view: MakeView, tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix = nn.Parameter(torch.randn(1, 5, 8)), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x + self.table)

    view, x = make_view(Positions(), torch.zeros(2, 5, 8)), torch.randn(3, 5, 8)
    student = student_of([build_op(parse_op(OPS[0]), view, 0)])
    (got,) = pytorch.BACKEND.load(pytorch.BACKEND.emit(student, tmp_path, (x,), CPU), CPU)(x)
    with torch.no_grad():
        assert torch.equal(got, student(x))
    agrees(export_for_timing(student, (x,)), "timed_input_0", student, x)


def test_an_export_with_a_free_batch(chain: fx.GraphModule) -> None:
    model = export_model(chain, (torch.randn(1, 4, 70, 68),)).SerializeToString()
    for batch in (1, 3):
        agrees(model, "x", chain, torch.randn(batch, 4, 70, 68))


@pytest.fixture
def only_the_older_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the older exporter has failed")

    monkeypatch.setattr(onnx_backend, "export_model", refuse)


@pytest.mark.usefixtures("only_the_older_exporter")
def test_an_export_for_timing(chain: fx.GraphModule) -> None:
    x = torch.randn(2, 4, 70, 68)
    agrees(export_for_timing(chain, (x,)), "timed_input_0", chain, x)


@pytest.mark.usefixtures("only_the_older_exporter")
@pytest.mark.parametrize("shape", [(10, 12), (5, 4, 12)])
def test_an_export_of_tokens_for_timing(make_view: MakeView, shape: tuple[int, ...]) -> None:
    view = make_view(nn.Linear(12, 20), torch.zeros(2, *shape))
    student, x = student_of([build_op(parse_op(OPS[0]), view, 0)]), torch.randn(2, *shape)
    agrees(export_for_timing(student, (x,)), "timed_input_0", student, x)


@pytest.mark.slow
@pytest.mark.usefixtures("only_the_older_exporter")
@pytest.mark.parametrize("text", OPS)
def test_every_slot_for_timing(slot: SlotView, text: str) -> None:
    op = parse_op(text)
    if op not in list(FAMILIES.get(op.family).enumerate(slot)):
        pytest.skip("the family does not fit")
    student, x = student_of([build_op(op, slot, 0)]), torch.randn(slot.input_spec.shape)
    agrees(export_for_timing(student, (x,)), "timed_input_0", student, x)


@pytest.mark.slow
@pytest.mark.parametrize("text", OPS)
def test_every_slot_with_a_free_batch(slot: SlotView, text: str) -> None:
    op = parse_op(text)
    if op not in list(FAMILIES.get(op.family).enumerate(slot)):
        pytest.skip("the family does not fit")
    student, shape = student_of([build_op(op, slot, 0)]), slot.input_spec.sample_shape
    model = export_model(student, (torch.randn(2, *shape),)).SerializeToString()
    agrees(model, "x", student, torch.randn(5, *shape))
