from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.backends import onnx as backend
from lanac.backends.onnx import BACKEND, OPSET, export_model
from lanac.errors import BackendError
from lanac.ir.outputs import named_tensors
from lanac.targets import parse_target

CPU = parse_target("cpu")


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


def test_agrees_in_onnxruntime_for_any_batch(
    student: fx.GraphModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert BACKEND.unavailable(CPU) is None
    files = BACKEND.emit(student, tmp_path, (torch.randn(1, 3, 32, 32),), CPU)
    assert [path.name for path in files] == ["student.onnx"]
    assert list(tmp_path.iterdir()) == list(files)
    assert capfd.readouterr() == ("", "")

    model = onnx.load(files[0])
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [OPSET]
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 0
    assert kinds["Conv"] == sum(isinstance(m, nn.Conv2d) for m in student.modules())
    for value, shape in (
        (model.graph.input[0], ["batch", 3, 32, 32]),
        (model.graph.output[0], ["batch", 10]),
    ):
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == shape

    run = BACKEND.load(files, CPU)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 32, 32)
        (got,) = run(x)
        with torch.no_grad():
            want = student(x)
        assert want.std() > 1e-3
        assert relative_error(got, want) < 1e-4


class Several(nn.Module):
    """Nested outputs, an input that is an output, an input without a batch, a name in use."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 4)

    def forward(self, image: Tensor, mask: Tensor, scale: Tensor) -> dict[str, object]:
        return {"image": image, "rest": (self.output(image) * mask, [image * scale])}


def test_several_inputs_and_outputs() -> None:
    from lanac.backends.onnxruntime import session

    module = fx.symbolic_trace(Several()).eval()
    image = torch.randn(1, 4)
    model = export_model(module, (image, image, torch.randn(3, 1, 4)))
    assert [value.name for value in model.graph.input] == ["image", "mask", "scale"]
    assert [value.name for value in model.graph.output] == [
        "output_image",
        "rest.0",
        "rest.1.0",
    ]
    image, mask, scale = torch.randn(5, 4), torch.randn(5, 4), torch.randn(3, 1, 4)
    feed = {"image": image.numpy(), "mask": mask.numpy(), "scale": scale.numpy()}
    got = session(model.SerializeToString(), threads=1).run(None, feed)
    want = module(image, mask, scale)
    for array, tensor in zip(
        got, (want["image"], want["rest"][0], want["rest"][1][0]), strict=True
    ):
        assert relative_error(torch.from_numpy(array), tensor) < 1e-5


class Pyramid(NamedTuple):
    fine: Any
    coarse: Any


@dataclass
class Dense:
    maps: Any
    score: Any = None


def test_nested_outputs_are_called_by_their_keys_and_agree(tmp_path: Path) -> None:
    graph = fx.Graph()
    x = graph.placeholder("score")
    y = graph.call_module("layer", (x,))
    pair = graph.call_function(Pyramid, (y, [x, y]))
    made = graph.call_function(
        Dense, (), {"maps": pair, "score": graph.call_function(torch.relu, (y,))}
    )
    graph.output({"0": made, "none": None, "score": y})
    module = fx.GraphModule({"layer": nn.Linear(4, 4)}, graph).eval()
    files = BACKEND.emit(module, tmp_path, (torch.randn(1, 4),), CPU)
    model = onnx.load(files[0])
    assert [value.name for value in model.graph.output] == [
        "output_0.maps.fine",
        "output_0.maps.coarse.0",
        "output_0.maps.coarse.1",
        "output_0.score",
        "output_score",  # the input is called so
    ]
    assert "layer.weight" in [weight.name for weight in model.graph.initializer]
    for batch in (1, 5):
        x = torch.randn(batch, 4)
        with torch.no_grad():
            wanted = [tensor for _, tensor in named_tensors(module(x))]
        assert all(
            relative_error(a, b) < 1e-5
            for a, b in zip(BACKEND.load(files, CPU)(x), wanted, strict=True)
        )


def test_identity_fixed_batch_and_unoptimized() -> None:
    model = export_model(nn.Identity().eval(), (torch.randn(1, 4),), dynamic_batch=False)
    assert [node.op_type for node in model.graph.node] == ["Identity"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 4]
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model = export_model(norm, (torch.randn(1, 3, 4, 4),), optimize=False)
    assert "BatchNormalization" in [node.op_type for node in model.graph.node]


def test_exports_are_deterministic(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval()
    one, two = (export_model(module, (torch.zeros(2, 4),)).SerializeToString() for _ in "ab")
    assert one == two
    assert b"/work" not in one


def test_large_models_keep_weights_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "student.onnx.data").write_text("old")
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(64, 64))).eval()
    monkeypatch.setattr(backend, "LARGE_BYTES", 1000)
    files = BACKEND.emit(module, tmp_path, (torch.randn(2, 64),), CPU)
    assert [path.name for path in files] == ["student.onnx", "student.onnx.data"]
    x = torch.randn(3, 64)
    assert relative_error(BACKEND.load(files, CPU)(x)[0], module(x).detach()) < 1e-5
    assert files[1].stat().st_size >= 64 * 64 * 4
    monkeypatch.undo()
    files = BACKEND.emit(module, tmp_path, (torch.randn(2, 64),), CPU)
    assert list(tmp_path.iterdir()) == list(files)


def test_a_weight_larger_than_protobuf_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "LARGEST_WEIGHT_BYTES", 4 * 64 * 64)
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64))).eval()
    with pytest.raises(BackendError) as caught:
        BACKEND.emit(module, tmp_path, (torch.randn(2, 8),), CPU)
    assert str(caught.value) == (
        "cannot export to ONNX: weight '1.weight' has 16,384 bytes, and protobuf takes less than "
        "16,384 in one tensor. Split its layer, or emit PyTorch source only (--emit pytorch)."
    )
    assert not list(tmp_path.iterdir())


def test_training_mode_never_reaches_the_export(student: fx.GraphModule, tmp_path: Path) -> None:
    student.get_submodule("body_3.depthwise_norm").train()
    with pytest.raises(BackendError) as caught:
        BACKEND.emit(student, tmp_path, (torch.randn(1, 3, 32, 32),), CPU)
    assert str(caught.value) == (
        "cannot export to ONNX: batch norm 'body_3.depthwise_norm' is in training mode, so that "
        "what an image gets would depend on the rest of its batch or on chance. Re-estimate the "
        "batch norm statistics, then call eval() on the student."
    )
    assert not list(tmp_path.iterdir())


class Baked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize(
    ("module", "trouble"),
    [
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), "batch norm '' keeps no running"),
        (nn.Sequential(nn.Dropout()), "dropout '0' is in training mode"),
        (fx.symbolic_trace(Baked()).eval(), "batch norm 'batch_norm' in module '' was traced in"),
    ],
)
def test_other_randomness_is_refused(module: nn.Module, trouble: str) -> None:
    with pytest.raises(BackendError, match=trouble):
        export_model(module, (torch.randn(2, 4),))


def test_exporter_errors_are_short(capfd: pytest.CaptureFixture[str]) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(BackendError) as caught:
        export_model(Branching().eval(), (torch.randn(2, 4),))
    text = str(caught.value)
    assert text.startswith("cannot export Branching to ONNX: Could not guard on data-dependent")
    assert text.endswith(
        "Replace what the exporter refuses, or emit PyTorch source only (--emit pytorch)."
    )
    assert "\n" not in text
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_100", "regnety_002"])
def test_timm(name: str, statistics: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    teacher = statistics(timm.create_model(name, num_classes=10)).eval()
    files = BACKEND.emit(
        fx.symbolic_trace(teacher).eval(), tmp_path, (torch.randn(1, 3, 64, 64),), CPU
    )
    kinds = {node.op_type for node in onnx.load(files[0]).graph.node}
    assert "BatchNormalization" not in kinds
    run = BACKEND.load(files, CPU)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            assert relative_error(run(x)[0], teacher(x)) < 1e-4


def test_gelu_stands_in_the_order_that_runtimes_fuse(tmp_path: Path) -> None:
    """x * (1 + erf) * 0.5: ONNX Runtime makes one operator of it."""
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval()
    inputs = (torch.randn(3, 4),)
    model = export_model(network, inputs)
    (last,) = [node for node in model.graph.node if model.graph.output[0].name in node.output]
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    assert [constants[name] for name in last.input if name in constants] == [0.5]
    (output,) = BACKEND.load(backend.save_model(model, tmp_path), CPU)(*inputs)
    assert relative_error(output, network(*inputs)) < 1e-6
