"""ONNX models in fp16 and bf16, and what stands in for runtimes that do not know these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

from lanac.backends import _precision
from lanac.backends import onnx as exporter
from lanac.backends._precision import emulated, in_precision
from lanac.backends.onnx import export_model, save_model
from lanac.backends.onnx_files import first_overflow, load_rounded, write_in_precision
from lanac.errors import BackendError

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BOUNDS = {"fp16": 2e-3, "bf16": 2e-2}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[nn.Module, Tensor], Path]:
    def export(module: nn.Module, *inputs: Tensor) -> Path:
        folder = tmp_path_factory.mktemp("exact")
        return save_model(export_model(module.eval(), inputs), folder)[0]

    return export


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_low_and_the_border_stays_fp32(
    exact: tuple[fx.GraphModule, Path], precision: str, tmp_path: Path
) -> None:
    student, exact_path = exact
    x = torch.randn(4, 3, 32, 32)
    (path,) = write_in_precision(exact_path, tmp_path, precision)
    assert path.name == f"student.{precision}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(str(path), full_check=True)
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {
        TensorProto.FLOAT
    }
    floats = Counter(w.data_type for w in model.graph.initializer if w.data_type != 7)
    assert set(floats) == {TYPES[precision]}
    assert path.stat().st_size < 0.6 * exact_path.stat().st_size
    # Names and order of what goes in and out are those of the fp32 file.
    before = onnx.load(exact_path).graph
    assert list(model.graph.input) == list(before.input)
    assert list(model.graph.output) == list(before.output)
    (got,) = load_rounded(path, precision)(x)
    with torch.no_grad():
        want = student(x)
    error = ((got - want).abs().max() / want.abs().max()).item()
    assert 1e-5 < error < BOUNDS[precision]  # it is rounded, and only that


def test_sums_stay_fp32_and_softmax_does_not(exported: Callable[..., Path]) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.linear(self.norm(x)), -1).mean(1)

    model = in_precision(onnx.load(exported(Parts(), torch.randn(2, 5, 8))), "fp16")
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    types |= {weight.name: weight.data_type for weight in model.graph.initializer}
    types |= {value.name: TensorProto.FLOAT for value in (*model.graph.input, *model.graph.output)}
    found = {node.op_type: types[node.input[0]] for node in model.graph.node}
    assert found["LayerNormalization"] == TensorProto.FLOAT
    assert found["ReduceMean"] == TensorProto.FLOAT
    assert found["MatMul"] == TensorProto.FLOAT16
    assert found["Softmax"] == TensorProto.FLOAT16


class Nested(nn.Module):
    """Two inputs, one of integers; a nest of outputs, one of which is used inside as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, tokens: Tensor, image: Tensor) -> dict[str, Tensor | list[Tensor]]:
        hidden = self.linear(self.embed(tokens) + image)
        return {"hidden": hidden, "parts": [hidden.relu(), tokens + 1]}


def test_several_inputs_and_nested_outputs(exported: Callable[..., Path], tmp_path: Path) -> None:
    module = fx.symbolic_trace(Nested()).eval()
    tokens, image = torch.randint(7, (3, 5)), torch.randn(3, 5, 4)
    with torch.no_grad():
        want = module(tokens, image)
    file = exported(module, tokens, image)
    for precision, bound in BOUNDS.items():
        (path,) = write_in_precision(file, tmp_path, precision)
        model = onnx.load(path)
        assert [value.name for value in model.graph.output] == ["hidden", "parts.0", "parts.1"]
        hidden, relu, more = load_rounded(path, precision)(tokens, image)
        assert torch.equal(more, tokens + 1)
        for got, exact in ((hidden, want["hidden"]), (relu, want["parts"][0])):
            assert got.dtype == torch.float32
            assert (got - exact).abs().max() < bound * exact.abs().max()


def test_the_emulation_rounds_as_a_runtime_that_knows_the_type(
    exported: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid())
    x = torch.randn(16, 8)
    file = exported(module, x)
    for precision, step in (("fp16", 2.0**-11), ("bf16", 2.0**-8)):
        (path,) = write_in_precision(file, tmp_path, precision)
        (reference,) = ReferenceEvaluator(str(path)).run(None, {"input": x.numpy()})
        (got,) = load_rounded(path, precision)(x)
        # Sums in another precision may end in the neighbouring number, most do not.
        assert np.abs(got.numpy() - reference).max() <= 2 * step
        assert (got.numpy() == reference).mean() > 0.5


def model_of(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_what_an_operator_takes_as_fp32_alone_stays_so() -> None:
    """Scales of Resize have a type of their own; so have indices."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="nearest"),
        helper.make_node("Squeeze", ["b", "axes"], ["y"]),
    ]
    model = model_of(nodes, axes=np.array([1]), scales=np.array([1.0, 1.0, 2.0], dtype=np.float32))
    low = in_precision(model, "fp16")
    onnx.checker.check_model(low, full_check=True)
    assert {w.name: w.data_type for w in low.graph.initializer} == {
        "axes": TensorProto.INT64,
        "scales": TensorProto.FLOAT,
    }


def test_masks_become_the_largest_value_and_infinities_stay() -> None:
    mask = np.array([[-3.4e38, -np.inf]], dtype=np.float32)
    low = in_precision(model_of([helper.make_node("Add", ["x", "mask"], ["y"])], mask=mask), "fp16")
    (weight,) = low.graph.initializer
    assert numpy_helper.to_array(weight).tolist() == [[-65504.0, -np.inf]]


def test_one_weight_in_two_types(exported: Callable[..., Path]) -> None:
    """What stays fp32 gets the exact weight, not the rounded one."""
    weight = np.array([[0.1, 0.2]], dtype=np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Pow", ["a", "w"], ["y"]),
    ]
    low = in_precision(model_of(nodes, w=weight), "fp16")
    kept = {entry.name: numpy_helper.to_array(entry) for entry in low.graph.initializer}
    assert {name: array.dtype.name for name, array in kept.items()} == {
        "w": "float32",
        "w/low": "float16",
    }
    assert kept["w"].tolist() == weight.tolist()


def test_what_onnx_cannot_convert_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        raise RuntimeError("No Adapter From Version 18 for Foo")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    with pytest.raises(BackendError) as caught:
        in_precision(model_of([helper.make_node("Relu", ["x"], ["y"])]), "bf16")
    assert str(caught.value) == (
        "no bf16 variant can be made of the student: ONNX cannot convert it to opset 22: No Adapter "
        "From Version 18 for Foo. Use fp16 or fp32"
    )


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    node = helper.make_node(
        "If", ["c"], ["y"], name="which", then_branch=branch, else_branch=branch
    )
    with pytest.raises(BackendError) as caught:
        in_precision(model_of([node], c=np.array(True)), "fp16")
    assert str(caught.value) == (
        "no fp16 variant can be made of the student: its ONNX model has control flow (If 'which'). "
        "Use fp32"
    )


def test_large_models_keep_their_weights_beside(
    exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "LARGE_BYTES", 1000)
    monkeypatch.setattr(_precision, "_SMALL_BYTES", 64)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    x = torch.randn(3, 64)
    exact = exported(module, x)
    assert exact.with_name("student.onnx.data").exists()
    for precision in ("fp16", "bf16"):
        files = write_in_precision(exact, tmp_path, precision)
        names = [f"student.{precision}.onnx", f"student.{precision}.onnx.data"]
        assert [path.name for path in files] == names
        (got,) = load_rounded(files[0], precision)(x)
        with torch.no_grad():
            want = module(x)
        assert (got - want).abs().max() < BOUNDS[precision] * want.abs().max()


def test_fp32_is_the_file_itself(exported: Callable[..., Path], tmp_path: Path) -> None:
    exact = exported(nn.Linear(2, 2), torch.randn(2, 2))
    assert write_in_precision(exact, exact.parent, "fp32") == (exact,)
    (copied,) = write_in_precision(exact, tmp_path, "fp32")
    assert copied.name == "student.onnx"
    assert onnx.load(copied) == onnx.load(exact)


def test_the_first_overflow_is_found(exported: Callable[..., Path]) -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 1e5).relu() * 1e-5

    exact = exported(Large(), torch.ones(2, 3))
    where = first_overflow(exact, (torch.ones(1, 3),), "fp16")
    assert where is not None
    assert where.startswith("Mul 'node_mul") and where.endswith("' gives 1e+05")
    assert first_overflow(exact, (torch.ones(1, 3) * 0.1,), "fp16") is None
    assert first_overflow(exact, (torch.ones(1, 3),), "bf16") is None


def test_emulating_fp32_changes_nothing() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])])
    nodes = list(model.graph.node)
    assert list(emulated(model).graph.node) == nodes
