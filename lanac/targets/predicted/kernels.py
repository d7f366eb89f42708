"""The kernels that a network runs, found without a GPU and without computing.

The module is run on meta tensors, which have shapes and no data, while every ATen operator is
written down: what it reads and writes, how much it multiplies, and which values it shares with others.
Views cost nothing and are followed through their storage; writes in place give a new value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lanac.errors import PredictionError, first_line
from lanac.ir import TensorSpec, named_tensors, run_on_meta
from lanac.targets.predicted.work import Work, class_of, work_of

_FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "set",
    "alias", "as_strided", "resize", "lift_fresh", "_local_scalar_dense",
}  # fmt: skip
"""Operators that start no kernel."""

_ATTENTION = F.scaled_dot_product_attention

_CONTIGUOUS = {"native_layer_norm", "native_group_norm", "_softmax", "_log_softmax"}
"""Operators that copy an input that is not contiguous before they read it."""


@dataclass(frozen=True)
class Operand:
    """What a kernel reads or writes of one value.

    Attributes:
        value: number of the value; the same number is the same data.
        elements: how many of its elements are touched.
        itemsize: bytes of one element.
        floating: whether its precision follows the network's.
        weight: whether it belongs to the module and not to the input.
        scalar: whether it has no dimension; such a value does not make others wider.
    """

    value: int
    elements: int
    itemsize: int
    floating: bool
    weight: bool = False
    scalar: bool = False

    @property
    def nbytes(self) -> int:
        return self.elements * self.itemsize


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: of the ATen operator, such as `convolution`; `cast` where precision asks for one.
        kind: its class, one of `lanac.targets.predicted.work.CLASSES`.
        reads: what it reads.
        writes: what it writes.
        work: multiplications and the shape facts that decide how well a device does them.
        in_place: whether what it writes takes the place, and the type, of what it reads first.
    """

    name: str
    kind: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    work: Work
    in_place: bool = False

    @property
    def read_bytes(self) -> int:
        return sum(operand.nbytes for operand in self.reads)

    @property
    def written_bytes(self) -> int:
        return sum(operand.nbytes for operand in self.writes)


@dataclass(frozen=True)
class KernelList:
    """The kernels of a network in the order in which they run.

    Attributes:
        kernels: the kernels.
        outputs: numbers of the values that the network returns: they are always written.
    """

    kernels: tuple[Kernel, ...]
    outputs: frozenset[int]

    def readers(self) -> dict[int, list[int]]:
        """Places of the kernels that read a value, by value."""
        found: dict[int, list[int]] = {}
        for place, kernel in enumerate(self.kernels):
            for value in dict.fromkeys(operand.value for operand in kernel.reads):
                found.setdefault(value, []).append(place)
        return found

    def feeds_only(self) -> dict[int, int]:
        """Kernels whose result only one other kernel reads: place -> place of that one."""
        readers = self.readers()
        single: dict[int, int] = {}
        for place, kernel in enumerate(self.kernels):
            users = {user for written in kernel.writes for user in readers.get(written.value, ())}
            returned = any(written.value in self.outputs for written in kernel.writes)
            if len(users) == 1 and not returned:
                single[place] = users.pop()
        return single


def record_kernels(module: nn.Module, specs: Sequence[TensorSpec]) -> KernelList:
    """The kernels that a module runs on inputs of these shapes.

    Nothing is computed, no weights are read, and the module is left as it is. The module has to be
    in eval mode; its weights may lie on any device, the meta device included.

    Args:
        module: any module or graph whose code does not decide by the values of tensors.
        specs: of its inputs, batch included.

    Raises:
        PredictionError: the module cannot run on tensors without values.
    """
    recorder = _Recorder()
    inputs = [torch.empty(spec.shape, dtype=spec.dtype, device="meta") for spec in specs]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), recorder, _AttentionMode(recorder):
            output = module(*inputs)
    except Exception as error:
        raise PredictionError(
            f"the kernels of {type(module).__name__} cannot be listed on inputs "
            f"{', '.join(map(str, specs))}: {first_line(error)}. Latency is predicted for networks "
            "whose code does not decide by the values of tensors"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    outputs = {recorder.value(tensor) for _, tensor in named_tensors(output)}
    return KernelList(tuple(recorder.kernels), frozenset(outputs))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator on the meta device and writes it down."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernel] = []
        self._values: dict[int, int] = {}  # storage -> value that it holds now
        self._weights: set[int] = set()
        self._count = 0
        self._copies: dict[int, Tensor] = {}  # id of a tensor that is not on meta -> its likeness
        self._kept: list[Any] = []  # ids and storages stay unique as long as tensors live

    def value(self, tensor: Tensor) -> int:
        """The number of the value that a tensor holds now."""
        storage = self.on_meta(tensor).untyped_storage()._cdata
        if storage not in self._values:
            self._values[storage] = self._new()
        return self._values[storage]

    def on_meta(self, tensor: Any) -> Any:
        """The likeness without data of the module's own tensors; anything else as it is."""
        if not isinstance(tensor, Tensor):
            return tensor
        if tensor.device.type == "meta":
            if isinstance(tensor, nn.Parameter):
                self._keep_weight(tensor)
            return tensor
        found = self._copies.get(id(tensor))
        if found is None:
            found = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )
            self._copies[id(tensor)] = found
            self._kept.append(tensor)
            self._keep_weight(found)
        return found

    def _keep_weight(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._values:
            self._kept.append(tensor)
            self._values[storage] = self._new()
            self._weights.add(self._values[storage])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args = _mapped(args, self.on_meta)
        kwargs = _mapped(kwargs or {}, self.on_meta)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("meta")
        result = run_on_meta(func, args, kwargs)
        self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func._schema.name.partition("::")[2]
        outputs = _tensors(result)
        self._kept.append(result)
        if name.rstrip("_") in _FREE or not outputs:
            return
        inputs = _tensors([args, kwargs])
        storages = {tensor.untyped_storage()._cdata for tensor in inputs}
        mutating = func._schema.is_mutable
        if not mutating and all(t.untyped_storage()._cdata in storages for t in outputs):
            return  # a view
        if mutating and name == "copy_" and outputs[0].numel() == 0:
            return
        read = inputs[1:] if name in ("copy_", "fill_", "zero_") else inputs
        if name in _CONTIGUOUS and not read[0].is_contiguous():
            read = [self._copied(read[0]), *read[1:]]
        reads = tuple(self._operand(tensor) for tensor in _distinct(read))
        if mutating:
            for tensor in outputs:
                self._values[tensor.untyped_storage()._cdata] = self._new()
        writes = tuple(self._operand(tensor) for tensor in _distinct(outputs) if tensor.numel())
        plain = name.rstrip("_") or name
        work = work_of(plain, args, outputs[0])
        kind = class_of(plain, work, args)
        if kind == "norm" and plain.endswith("batch_norm"):
            writes = writes[:1]
        writes = writes[: _kept_outputs(plain)]
        in_place = mutating and read is inputs
        self.kernels.append(Kernel(plain, kind, reads, writes, work, in_place))

    def _copied(self, tensor: Tensor) -> Tensor:
        """A contiguous copy, as GPU kernels make it where they cannot read a tensor as it lies."""
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self._kept.append(copy)
        self._add("clone", "copy", [tensor], copy, Work())
        return copy

    def note_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Scaled dot product attention: one kernel, or three where the inputs have five dimensions.

        The fused kernels take (batch, heads, tokens, features) alone.
        """
        query, key, value = (self.on_meta(tensor) for tensor in (query, key, value))
        output = torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device="meta")
        self._kept.append(output)
        masks = [] if mask is None else [self.on_meta(mask)]
        groups = query.numel() // max(query.shape[-1] * query.shape[-2], 1)
        rows, columns = query.shape[-2], key.shape[-2]
        depth, width = query.shape[-1], value.shape[-1]
        first = Work(groups * rows * columns * depth, rows, columns, depth, groups)
        second = Work(groups * rows * columns * width, rows, width, columns, groups)
        if query.ndim == 4:
            work = Work(first.macs + second.macs, rows, columns, depth, groups)
            self._add("attention", "attention", [query, key, value, *masks], output, work)
            return output
        scores, weights = (
            torch.empty((*query.shape[:-1], columns), dtype=query.dtype, device="meta")
            for _ in range(2)
        )
        self._kept += [scores, weights]
        self._add("bmm", "bmm", [query, key], scores, first)
        self._add("softmax", "softmax", [scores, *masks], weights, Work(k=columns))
        self._add("bmm", "bmm", [weights, value], output, second)
        return output

    def _add(
        self, name: str, kind: str, read: Sequence[Tensor], written: Tensor, work: Work
    ) -> None:
        reads = tuple(self._operand(tensor) for tensor in _distinct(read))
        self.kernels.append(Kernel(name, kind, reads, (self._operand(written),), work))

    def _operand(self, tensor: Tensor) -> Operand:
        value = self.value(tensor)
        elements = tensor.numel()
        if 0 in tensor.stride():  # expanded: the same element many times
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
                elements = elements // size if stride == 0 and size else elements
        return Operand(
            value, elements, tensor.itemsize, tensor.is_floating_point(), value in self._weights,
            scalar=tensor.ndim == 0,
        )  # fmt: skip

    def _new(self) -> int:
        self._count += 1
        return self._count


class _AttentionMode(TorchFunctionMode):
    """Keeps attention in one piece; the CPU's and the meta device's own forms of it differ."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTENTION:
            return self._attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            # The mode is off while it handles a call, and this one calls attention inside.
            F.scaled_dot_product_attention = self._attention
            try:
                return func(*args, **kwargs)
            finally:
                F.scaled_dot_product_attention = _ATTENTION
        return func(*args, **kwargs)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, **__: Any
    ) -> Tensor:
        return self._recorder.note_attention(query, key, value, attn_mask)


def _kept_outputs(name: str) -> int:
    """Further outputs are statistics that no later kernel reads, or indices."""
    statistics = ("norm", "max_pool2d_with_indices", "_softmax", "max_pool3d_with_indices")
    return 1 if name.endswith(statistics) else 1_000_000


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(item, change) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors without those that show the same elements."""
    found: dict[tuple[Any, ...], Tensor] = {}
    for tensor in tensors:
        key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape))
        found.setdefault(key, tensor)
    return list(found.values())
