"""ONNX files on disk: what they take and give, variants in another precision, and running those."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lanac.backends._precision import LARGEST, emulated, in_precision
from lanac.backends.base import Runner
from lanac.backends.onnx import BACKEND, MODEL_NAME, data_name, save_model
from lanac.backends.onnxruntime import session
from lanac.errors import BackendError, first_line
from lanac.targets import parse_target

if TYPE_CHECKING:
    import onnx

_CPU = parse_target("cpu")


@dataclass(frozen=True)
class Value:
    """An input or output of a model.

    Attributes:
        name: as the model has it.
        dtype: as numpy calls it, such as `float32`.
        shape: None where a dimension is free: the batch.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def with_batch(self, batch: int) -> tuple[int, ...]:
        """The shape with that batch."""
        return tuple(batch if size is None else size for size in self.shape)


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, in order."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def random_inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs to compare two networks on, where there are no real ones.

        Floating point values are normal; integers are 0 or 1, which every index and class knows.
        """
        generator = torch.Generator().manual_seed(seed)
        made = []
        for value in self.inputs:
            dtype, shape = getattr(torch, value.dtype), value.with_batch(batch)
            if dtype.is_floating_point:
                made.append(torch.randn(shape, generator=generator).to(dtype))
            else:
                made.append(torch.randint(2, shape, generator=generator).to(dtype))
        return tuple(made)


def read_model(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """A model from its file, with what lies beside it.

    Raises:
        BackendError: there is none, or it is damaged.
    """
    import onnx

    try:
        return onnx.load(path, load_external_data=weights)
    # protobuf, ONNX and the file system each raise their own.
    except Exception as error:
        raise BackendError(
            f"{path} cannot be read as an ONNX model: {first_line(error)}"
        ) from error


def read_signature(path: Path) -> Signature:
    """What the model takes and gives; the weights are not read."""
    graph = read_model(path, weights=False).graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    return Signature(tuple(map(_value, inputs)), tuple(map(_value, graph.output)))


def _value(info: onnx.ValueInfoProto) -> Value:
    from onnx import helper

    kind = info.type.tensor_type
    shape = (d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Value(info.name, dtype, tuple(shape))


def file_name(precision: str) -> str:
    """`student.onnx`, `student.fp16.onnx`."""
    return MODEL_NAME if precision == "fp32" else MODEL_NAME.replace(".", f".{precision}.")


def write_in_precision(
    model: Path, folder: Path, precision: str, name: str | None = None
) -> tuple[Path, ...]:
    """Writes the model in that precision; it takes and gives what the fp32 model does.

    Returns:
        The model, and its weights where they lie beside it.

    Raises:
        BackendError: no such variant can be made.
    """
    name = name or file_name(precision)
    path = folder / name
    if path.exists() and path.samefile(model):
        beside = folder / data_name(name)
        return (path, beside) if beside.exists() else (path,)
    return save_model(in_precision(read_model(model), precision), folder, name)


def load_rounded(path: Path, precision: str) -> Runner:
    """Runs an ONNX file on the CPU; where it is fp16 or bf16, every result is rounded to that.

    Raises:
        BackendError: it cannot be read, or ONNX Runtime refuses it.
    """
    if precision == "fp32":
        return BACKEND.load((path,), _CPU)
    with tempfile.TemporaryDirectory(prefix="lanac.") as scratch:
        files = save_model(emulated(read_model(path)), Path(scratch))
        return BACKEND.load(files, _CPU)


def first_overflow(model: Path, inputs: tuple[Tensor, ...], precision: str) -> str | None:
    """Where an fp32 model exceeds the range of a precision.

    Args:
        model: the fp32 file.
        inputs: one sample is enough.
        precision: fp16 or bf16.

    Returns:
        A phrase that names the first operator and its largest value; None where there is none, and
        for models whose weights lie beside them: they are too large for this.
    """
    import onnx
    from onnx import helper

    if (model.parent / data_name(model.name)).exists():
        return None
    proto = read_model(model)
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    made = [(node, name) for node in proto.graph.node for name in node.output]
    floats = [(n, name) for n, name in made if types.get(name) == onnx.TensorProto.FLOAT]
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for _, name in floats
        if name not in known
    )
    running = session(proto.SerializeToString(), threads=1)
    names = [value.name for value in running.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    values = running.run([name for _, name in floats], feed)
    for (node, _), value in zip(floats, values, strict=True):
        largest = float(abs(value).max()) if value.size else 0.0
        if not largest <= LARGEST[precision]:
            return f"{node.op_type} {node.name!r} gives {largest:.4g}"
    return None
