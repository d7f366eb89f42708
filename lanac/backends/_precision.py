"""ONNX models in fp16 and bf16: the precision is a property of the file (strongly typed).

`in_precision` turns an fp32 model into one that computes in fp16 or bf16 inside and still takes and
gives fp32, so that it drops into the place of the other. `emulated` turns that one into an fp32
model which rounds wherever the other rounds, for runtimes that do not know the type.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lanac.errors import BackendError, first_line

if TYPE_CHECKING:
    import numpy as np
    import onnx

LARGEST = {"fp16": 65504.0, "bf16": 3.3895314e38}
"""The largest finite value of a format."""

_BF16_OPSET = 22
"""The first in which convolutions, pools and most other operators may be bf16."""

_SMALL_BYTES = 1024
"""Initializers up to here may be shapes and axes, which shape inference needs."""

FP32_OPS = frozenset(
    {
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
        *("BatchNormalization", "LpNormalization", "MeanVarianceNormalization"),
        *("RMSNormalization", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare"),
        *("ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "CumSum"),
        *("Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Softplus", "LogSoftmax", "Sin", "Cos", "Tan"),
        *("Cast", "CastLike", "Range", "ConstantOfShape", "Constant", "RandomNormal"),
    }
)
"""Operators that stay fp32: long sums and steep functions lose digits or overflow (the list of
torch.autocast), and what makes numbers from integers. Softmax is not among them: it subtracts the
largest value first, and engines fuse attention only where all of it has one type."""


def in_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The model in another precision: fp32 inputs and outputs, cast at the border.

    Weights beyond the format's range become its largest value; the comparison with the student
    decides whether that does harm (in a mask for attention it does none).

    Args:
        model: fp32, without control flow; it is used up: large models exist once in memory.
        precision: fp32, fp16 or bf16.

    Raises:
        BackendError: the model has control flow.
    """
    if precision == "fp32":
        return model
    import onnx

    _refuse_control_flow(model, precision)
    if precision == "bf16" and _opset(model) < _BF16_OPSET:
        model = _converted(model, _BF16_OPSET)
    low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    _Lowering(model, low).run()
    return model


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """An fp32 model that rounds every result as the fp16 or bf16 model does, which is used up.

    Each operator computes in fp32 and its result is rounded: what tensor cores with fp32 sums do.
    ONNX Runtime on the CPU has no bf16 kernels, and leaves the rounding of fp16 models away.
    """
    import onnx
    from onnx import numpy_helper

    types = _element_types(model)
    low = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for weight in model.graph.initializer:
        if weight.data_type in low:
            array = numpy_helper.to_array(weight).astype("float32")
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    nodes = []
    for node in model.graph.node:
        casts = [entry for entry in node.attribute if entry.name == "to" and entry.i in low]
        for entry in casts:
            entry.i = onnx.TensorProto.FLOAT
        nodes.append(node)
        for place, name in enumerate(node.output):
            if types.get(name) in low:
                node.output[place] = exact = f"{name}/exact"
                rounded = f"{name}/rounded"
                nodes.append(_cast(exact, rounded, types[name]))
                nodes.append(_cast(rounded, name, onnx.TensorProto.FLOAT, "back"))
    _set_nodes(model, nodes)
    del model.graph.value_info[:]
    return model


@dataclass
class _Lowering:
    """One rewrite of a model, in place.

    Attributes:
        model: what is rewritten.
        low: the element type that replaces fp32.
    """

    model: onnx.ModelProto
    low: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    has: dict[str, int] = field(default_factory=dict)
    """The element type of every floating point tensor as it is now."""
    casts: dict[tuple[str, int], str] = field(default_factory=dict)

    def run(self) -> None:
        import onnx

        graph = self.model.graph
        self.fp32 = int(onnx.TensorProto.FLOAT)
        self.types = _element_types(self.model)
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        floats = [name for name, kind in self.types.items() if kind == self.fp32]
        self.has = dict.fromkeys(floats, self.fp32)
        for node in list(graph.node):
            self._rewrite(node)
        kept = {name for node in self.nodes for name in node.input} | self.outputs
        weights = [self.weights[name] for name in self.weights if name in kept]
        del graph.initializer[:]
        graph.initializer.extend(weights)
        _set_nodes(self.model, self.nodes)
        del graph.value_info[:]  # types of what was

    def _rewrite(self, node: onnx.NodeProto) -> None:
        wanted = _lowerable(node, self.types, self.fp32, self.low, _opset(self.model))
        for place, name in enumerate(node.input):
            if name in self.has:
                kind = self.low if wanted is not None and place in wanted[0] else self.fp32
                node.input[place] = self._as(name, kind)
        self.nodes.append(node)
        for place, name in enumerate(node.output):
            if wanted is None or place not in wanted[1]:
                continue
            if name in self.outputs:
                node.output[place] = inner = f"{name}/low"
                self.nodes.append(_cast(inner, name, self.fp32))
                self.casts[name, self.low] = inner
            else:
                self.has[name] = self.low

    def _as(self, name: str, kind: int) -> str:
        """The name of that tensor in that type; casts it where needed, once."""
        if self.has[name] == kind:
            return name
        if (name, kind) not in self.casts:
            other = f"{name}/{'fp32' if kind == self.fp32 else 'low'}"
            self.casts[name, kind] = other
            if name in self.weights:
                self.weights[other] = _rounded(self.weights[name], other, kind)
            else:
                self.nodes.append(_cast(name, other, kind))
        return self.casts[name, kind]


def _lowerable(
    node: onnx.NodeProto, types: dict[str, int], fp32: int, low: int, opset: int
) -> tuple[set[int], set[int]] | None:
    """The places of inputs and outputs that take the low type; None where the node stays fp32."""
    import onnx

    if node.op_type in FP32_OPS or node.domain not in ("", "ai.onnx"):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset)
    name = onnx.TensorProto.DataType.Name(low).lower()
    allowed = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if f"tensor({name})" in constraint.allowed_type_strs
    }
    inputs = _formal_types(schema.inputs, len(node.input))
    outputs = _formal_types(schema.outputs, len(node.output))
    floats = {place for place, name in enumerate(node.input) if types.get(name) == fp32}
    low_inputs = {place for place in floats if inputs[place] in allowed}
    variables = {inputs[place] for place in low_inputs}
    results = {place for place, name in enumerate(node.output) if types.get(name) == fp32}
    if not low_inputs or any(outputs[place] not in variables for place in results):
        return None
    if any("(" not in inputs[place] and place not in low_inputs for place in floats):
        return None  # an input that may be of several types, but not of this one
    return low_inputs, results


def _formal_types(formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """The type of each actual parameter: `T`, or `tensor(float)`; the last one may be repeated."""
    return [formal[min(place, len(formal) - 1)].type_str for place in range(count)]


def _rounded(weight: onnx.TensorProto, name: str, kind: int) -> onnx.TensorProto:
    import onnx
    from onnx import helper, numpy_helper

    array = numpy_helper.to_array(weight)
    precision = "fp16" if kind == onnx.TensorProto.FLOAT16 else "bf16"
    return numpy_helper.from_array(
        _within(array, LARGEST[precision]).astype(helper.tensor_dtype_to_np_dtype(kind)), name
    )


def _within(array: np.ndarray, largest: float) -> np.ndarray:
    """Infinities stay; what only the rounding would make infinite does not."""
    import numpy as np

    return np.where(np.isfinite(array), array.clip(-largest, largest), array)


def _cast(source: str, result: str, kind: int, verb: str = "cast") -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [result], name=f"{verb}_{result}", to=kind)


def _set_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [copy.deepcopy(node) for node in nodes]  # clearing the field empties what it holds
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _opset(model: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain == "")


def _refuse_control_flow(model: onnx.ModelProto, precision: str) -> None:
    import onnx

    for node in model.graph.node:
        for entry in node.attribute:
            if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise BackendError(
                    f"no {precision} variant can be made of the student: its ONNX model has control "
                    f"flow ({node.op_type} {node.name!r}). Use fp32"
                )


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor."""
    import onnx

    with _without_weights(model) as light:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return types | {weight.name: int(weight.data_type) for weight in graph.initializer}


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in a newer opset."""
    import onnx
    from onnx import version_converter

    with _without_weights(model) as light:
        held = [weight for weight in model.graph.initializer if _is_large(weight)]
        try:
            result = version_converter.convert_version(light, opset)
        # It is C++, and raises what pybind11 makes of that.
        except Exception as error:
            raise BackendError(
                f"no bf16 variant can be made of the student: ONNX cannot convert it to opset {opset}: "
                f"{first_line(error)}. Use fp16 or fp32"
            ) from error
    names = {weight.name for weight in held}
    inputs = [value for value in result.graph.input if value.name not in names]
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    result.graph.initializer.extend(held)
    result.ir_version = max(
        result.ir_version, onnx.helper.find_min_ir_version_for(result.opset_import)
    )
    return result


@contextmanager
def _without_weights(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model with its large weights as inputs: protobuf passes no more than 2 GiB to ONNX."""
    import onnx
    from onnx import helper

    light = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
    )
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.output.extend(model.graph.output)
    light.graph.input.extend(model.graph.input)
    for weight in model.graph.initializer:
        if _is_large(weight):
            value = helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
            light.graph.input.append(value)
        else:
            light.graph.initializer.append(weight)
    yield light


def _is_large(weight: onnx.TensorProto) -> bool:
    return len(weight.raw_data) > _SMALL_BYTES
