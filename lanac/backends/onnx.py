"""Emits a student as one ONNX file."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.backends._flat import with_flat_outputs
from lanac.backends.base import Runner
from lanac.errors import BackendError, first_line
from lanac.targets import Target

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""What torch's exporter writes by itself: newer ones pass through a version converter. Every
runtime in use reads it, also the TensorRT releases for Volta; 23 brings `Attention`, which some
engines refuse."""

MODEL_NAME = "student.onnx"
LARGE_BYTES = 2_000_000_000
"""From here on weights lie beside the model: protobuf cannot write more than 2 GiB."""

LARGEST_WEIGHT_BYTES = 2**31 - 64
"""Nor can it copy a single tensor of more, with its name and shape."""


class OnnxBackend:
    """Writes `student.onnx`."""

    name = "onnx"

    def unavailable(self, target: Target) -> str | None:
        """Why ONNX cannot be written here, or None where it can."""
        for package in ("onnx", "onnxscript", "onnx_graphsurgeon"):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed (pip install {package.replace('_', '-')})"
        return None

    def precision(self, target: Target) -> str:
        """Always fp32; `onnx_fp16` and `onnx_bf16` are outputs of their own."""
        return "fp32"

    def emit(
        self, student: fx.GraphModule, folder: Path, inputs: tuple[Tensor, ...], target: Target
    ) -> tuple[Path, ...]:
        """Writes the model; weights lie in a second file only where the model is too large."""
        return save_model(export_model(student, inputs), folder)

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """Loads the model into ONNX Runtime on one CPU thread."""
        from lanac.backends.onnxruntime import session

        loaded = session(files[0], threads=1)
        names = [value.name for value in loaded.get_inputs()]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            feed = {n: t.detach().cpu().numpy() for n, t in zip(names, inputs, strict=True)}
            return tuple(torch.from_numpy(array) for array in loaded.run(None, feed))

        return run

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """Nothing: the file is run as it is."""
        return ()


def export_model(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    dynamic_batch: bool = True,
    optimize: bool = True,
) -> onnx.ModelProto:
    """Exports a module to ONNX and cleans the result.

    Args:
        module: in eval mode.
        inputs: example inputs. Those whose first dimension is as large as that of the first input
            have a batch.
        dynamic_batch: whether the batch may have any size; otherwise it is that of `inputs`.
        optimize: whether constants and batch norms are folded by the exporter. Folding leaves
            fp32 weights in bf16 models, which runtimes refuse.

    Returns:
        The model: topologically sorted, without dead nodes, opset `OPSET`; its inputs are called
        like the module's. Nested outputs come one after the other, depth first, and are called by
        their keys and places, as `lanac.ir.outputs.named_tensors` has them.

    Raises:
        BackendError: a batch norm or dropout is in training mode, or the exporter fails.
    """
    refuse_training_mode(module)
    # Clones: the exporter takes one tensor given twice for one input.
    examples = tuple(value.clone() for value in inputs)
    shapes = None
    if dynamic_batch:
        examples, shapes = _with_batch(inputs)
    exported, output_names = with_flat_outputs(module, examples)
    try:
        with _silence(), torch.no_grad():
            program: Any = torch.onnx.export(
                exported,
                examples,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                optimize=optimize,
                verbose=False,
            )
            model = program.model_proto
            return clean_model(model, _input_names(module, len(inputs)), output_names)
    except torch.onnx.OnnxExporterError as error:
        raise BackendError(
            f"cannot export {type(module).__name__} to ONNX: {_reason(error)} "
            "Replace what the exporter refuses, or emit PyTorch source only (--emit pytorch)."
        ) from error


def clean_model(
    model: onnx.ModelProto, input_names: tuple[str, ...], output_names: tuple[str, ...]
) -> onnx.ModelProto:
    """Folds constants, drops dead nodes, sorts, and names inputs and outputs.

    An output whose name is taken by an input or another output gets `output_` in front.

    Raises:
        BackendError: a single weight is larger than protobuf takes.
    """
    import onnx_graphsurgeon as gs

    _refuse_large_weights(model)
    graph = gs.import_onnx(model)
    # Folding runs parts of the graph as models of their own, which protobuf limits in size.
    if _weight_bytes(model) < LARGE_BYTES:
        graph.fold_constants()
    _reorder_gelu(graph)
    graph.cleanup().toposort()
    wanted = dict(zip(input_names, graph.inputs, strict=True))
    for name, tensor in zip(output_names, graph.outputs, strict=True):
        while name in wanted:
            name = f"output_{name}"
        wanted[name] = tensor
    for tensor in graph.tensors().values():
        if tensor.name in wanted:
            tensor.name = f"{tensor.name}_inner"
    for name, tensor in wanted.items():
        tensor.name = name
    return gs.export_onnx(graph)


def _refuse_large_weights(model: onnx.ModelProto) -> None:
    for weight in model.graph.initializer:
        size = len(weight.raw_data)
        if size >= LARGEST_WEIGHT_BYTES:
            raise BackendError(
                f"cannot export to ONNX: weight {weight.name!r} has {size:,} bytes, and protobuf takes "
                f"less than {LARGEST_WEIGHT_BYTES:,} in one tensor. Split its layer, or emit PyTorch "
                "source only (--emit pytorch)."
            )


def data_name(name: str) -> str:
    """The file for large weights beside a model."""
    return f"{name}.data"


def _reorder_gelu(graph: Any) -> None:
    """GELU as x * (1 + erf) * 0.5, where the exporter writes x * (0.5 * (1 + erf)).

    The same value, and the order that ONNX Runtime knows as one operator: a ViT gains a tenth.
    """
    for outer in graph.nodes:
        if outer.op != "Mul":
            continue
        for place, value in enumerate(outer.inputs):
            inner = value.inputs[0] if value.inputs else None
            if inner is None or inner.op != "Mul" or len(value.outputs) != 1:
                continue
            half = [side for side in inner.inputs if _is_scalar(side, 0.5)]
            rest = [side for side in inner.inputs if _adds_to_erf(side)]
            if len(half) == len(rest) == 1:
                x = outer.inputs[1 - place]
                inner.inputs, outer.inputs = [x, rest[0]], [value, half[0]]
                break


def _is_scalar(tensor: Any, number: float) -> bool:
    values = getattr(tensor, "values", None)
    return values is not None and values.size == 1 and float(values.reshape(-1)[0]) == number


def _adds_to_erf(tensor: Any) -> bool:
    makers = [node for node in tensor.inputs if node.op == "Add"]
    sides = [side for node in makers for side in node.inputs]
    return any(node.op == "Erf" for side in sides for node in side.inputs)


def save_model(model: onnx.ModelProto, folder: Path, name: str = MODEL_NAME) -> tuple[Path, ...]:
    """Checks the model and puts its files into `folder`; the model appears whole or not at all."""
    import onnx

    is_large = _weight_bytes(model) >= LARGE_BYTES
    beside = data_name(name)
    names = (beside, name) if is_large else (name,)
    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=folder) as draft:
        path = Path(draft) / name
        onnx.save_model(model, path, save_as_external_data=is_large, location=beside)
        # By path: the checker cannot take more than 2 GiB in memory.
        onnx.checker.check_model(str(path), full_check=True)
        for written in names:
            (Path(draft) / written).replace(folder / written)
    if not is_large:
        (folder / beside).unlink(missing_ok=True)
    return tuple(folder / written for written in reversed(names))


def refuse_training_mode(module: nn.Module) -> None:
    """Raises where an exported network would depend on the batch, or on chance.

    Raises:
        BackendError: names the first batch norm or dropout in training mode.
    """
    for path, part in module.named_modules():
        trouble = ""
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if part.training:
                trouble = f"batch norm {path!r} is in training mode"
            elif part.running_mean is None:
                trouble = f"batch norm {path!r} keeps no running statistics"
        elif isinstance(part, nn.modules.dropout._DropoutNd) and part.training:
            trouble = f"dropout {path!r} is in training mode"
        elif isinstance(part, fx.GraphModule):
            found = [node.name for node in part.graph.nodes if _uses_batch_statistics(node)]
            if found:
                trouble = f"batch norm {found[0]!r} in module {path!r} was traced in training mode"
        if trouble:
            raise BackendError(
                f"cannot export to ONNX: {trouble}, so that what an image gets would depend on "
                "the rest of its batch or on chance. Re-estimate the batch norm statistics, then "
                "call eval() on the student."
            )


def _uses_batch_statistics(node: fx.Node) -> bool:
    if node.target not in (F.batch_norm, torch.batch_norm):
        return False
    # Both functions take it at the same place.
    training = node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False)
    return training is True


def _with_batch(
    inputs: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Examples with at least two images, and which of their dimensions are dynamic."""
    size = inputs[0].shape[0] if inputs and inputs[0].ndim else None
    batch = torch.export.Dim("batch")
    has_batch = [value.ndim > 0 and value.shape[0] == size for value in inputs]
    # torch.export takes sizes 0 and 1 for constants.
    examples = [
        torch.cat([value, value]) if has and size == 1 else value.clone()
        for value, has in zip(inputs, has_batch, strict=True)
    ]
    return tuple(examples), tuple({0: batch} if has else {} for has in has_batch)


def _input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    if isinstance(module, fx.GraphModule):
        names = [str(n.target) for n in module.graph.nodes if n.op == "placeholder"]
    else:
        names = list(inspect.signature(module.forward).parameters)
    return tuple(names[:count])


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(weight.raw_data) for weight in model.graph.initializer)


def _reason(error: BaseException) -> str:
    """The exporter's messages are pages; the innermost cause's first line says what it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{first_line(error)}."


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporter's progress and advice away from lanac's own output."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


BACKEND = OnnxBackend()
