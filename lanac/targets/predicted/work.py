"""Which class a kernel belongs to, and how much it computes in which shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CLASSES = (
    "conv1x1", "conv3x3", "convkxk", "stem", "grouped", "depthwise", "linear", "bmm", "attention",
    "pointwise", "norm", "batch_norm", "softmax", "reduce", "pool", "copy", "cat", "cast", "resize",
    "fill",
)  # fmt: skip
"""Kernels of one class share their efficiencies."""

DENSE = ("conv1x1", "conv3x3", "convkxk", "stem", "linear", "bmm", "attention", "grouped")
"""Classes that multiply matrices: the ones that tensor cores work for."""

CONVOLUTIONS = ("conv1x1", "conv3x3", "convkxk", "stem", "grouped", "depthwise")
MULTIPLYING = (*DENSE, "depthwise")

_FEW_CHANNELS = 4  # colours: the first convolution of a network
_NAMED = {
    "norm": {"native_layer_norm", "native_group_norm", "_fused_rms_norm", "linalg_vector_norm"},
    "batch_norm": {"native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"}
    | {"_native_batch_norm_legit", "_native_batch_norm_legit_functional"},
    "softmax": {"_softmax", "_log_softmax", "softmax", "logsumexp", "_safe_softmax"},
    "reduce": {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean"}
    | {"prod", "argmax", "argmin", "any", "all", "norm", "cumsum", "topk"},
    "pool": {"max_pool2d_with_indices", "avg_pool2d", "avg_pool1d", "max_pool3d_with_indices"}
    | {"_adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool3d", "_adaptive_avg_pool3d"},
    "copy": {"clone", "copy", "roll", "index", "gather", "constant_pad_nd", "repeat", "im2col"}
    | {"index_select", "reflection_pad2d", "replication_pad2d", "flip", "pixel_shuffle", "embedding"}
    | {"slice_scatter", "select_scatter", "index_put", "scatter", "col2im", "channel_shuffle"}
    | {"_unsafe_index", "native_channel_shuffle", "pixel_unshuffle", "_reshape_copy", "repeat_interleave"},
    "cat": {"cat", "stack"},
    "cast": {"_to_copy", "cast"},
    "resize": {"upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d"}
    | {"_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "upsample_nearest1d"},
    "fill": {"full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "arange", "fill"}
    | {"zero", "new_zeros", "new_full", "new_ones", "linspace", "scalar_tensor", "eye", "tril_indices"},
}  # fmt: skip
_CLASS_BY_NAME = {name: kind for kind, names in _NAMED.items() for name in names}
_PRODUCTS = {
    "mm": 0,
    "bmm": 0,
    "addmm": 1,
    "baddbmm": 1,
    "addbmm": 1,
    "mv": 0,
    "addmv": 1,
    "dot": 0,
}
"""Matrix products: name -> place of the first factor."""


@dataclass(frozen=True)
class Work:
    """How much a kernel multiplies, seen as `groups` matrix products of (m, k) by (k, n).

    Attributes:
        macs: multiplications with their additions.
        m: rows: output positions of the whole batch in a convolution.
        n: columns: output channels of a group.
        k: what is summed over: input channels of a group times the window; the length of a row in
            norms, softmax and reductions.
        groups: how many products.
        window: positions of a convolution's or a pool's window.
        stride: of a convolution, the first one.
        channels: input channels of a convolution, all groups.
        bias: whether a convolution adds one.
        strided: whether an input does not lie in memory in the order in which it is read.
        channels_last: whether a convolution's input has its channels last in memory.
    """

    macs: int = 0
    m: int = 0
    n: int = 0
    k: int = 0
    groups: int = 1
    window: int = 1
    stride: int = 1
    channels: int = 0
    bias: bool = False
    strided: bool = False
    channels_last: bool = False


def work_of(name: str, args: tuple[Any, ...], output: Tensor) -> Work:
    """The work of an ATen operator, from its arguments and its first output."""
    if name in ("convolution", "_convolution", "cudnn_convolution"):
        return _convolution(args, output)
    if name in _PRODUCTS:
        first = args[_PRODUCTS[name]]
        k, n = first.shape[-1], output.shape[-1] if output.ndim > 1 else 1
        batches = output.shape[0] if output.ndim == 3 else 1
        m = output.numel() // max(n * batches, 1)
        return Work(output.numel() * k, m, n, k, batches, bias="add" in name)
    if name.startswith(("max_pool", "avg_pool")):
        size = args[1] if len(args) > 1 else [1]
        window = math.prod(size) if isinstance(size, (list, tuple)) else int(size)
        if isinstance(size, (list, tuple)) and len(size) == 1 and "2d" in name:
            window *= window
        return Work(window=window)
    return Work(k=_row(name, args, output), strided=_is_strided(name, args, output))


def _is_strided(name: str, args: tuple[Any, ...], output: Tensor) -> bool:
    tensors = [value for value in args if isinstance(value, Tensor)]
    if name not in _CLASS_BY_NAME:  # elementwise: any order is as good, if it is the same one
        return any(
            value.shape == output.shape and value.stride() != output.stride() for value in tensors
        )
    return bool(tensors) and tensors[0].ndim > 1 and tensors[0].stride(-1) != 1


def _row(name: str, args: tuple[Any, ...], output: Tensor) -> int:
    """How many elements are reduced together; 0 where none are."""
    if name == "native_layer_norm":
        return math.prod(args[1])
    if name == "native_group_norm":
        return int(args[0].numel() // max(args[3] * args[6], 1))
    if name in ("_softmax", "_log_softmax"):
        return int(args[0].shape[args[1]])
    if name in _NAMED["reduce"] and isinstance(args[0], Tensor):
        return int(args[0].numel() // max(output.numel(), 1))
    return 0


def _channels_last(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def _convolution(args: tuple[Any, ...], output: Tensor) -> Work:
    source, weight, bias = args[:3]
    stride, transposed, groups = args[3], bool(args[6]), int(args[8])
    window = math.prod(weight.shape[2:])
    out_channels = output.shape[1]
    k = source.shape[1] // groups * window
    if transposed:
        macs = source.numel() * weight.shape[1] * window
        m = source.numel() // source.shape[1]
        k, n = source.shape[1] // groups, weight.shape[1] * window
        return Work(macs, m, n, k, groups, window, stride[0], source.shape[1], bias is not None)
    last = _channels_last(source)
    macs = output.numel() * k
    m, n = output.numel() // out_channels, out_channels // groups
    return Work(
        macs, m, n, k, groups, window, stride[0], source.shape[1], bias is not None,
        channels_last=last,
    )  # fmt: skip


def class_of(name: str, work: Work, args: tuple[Any, ...]) -> str:
    """The class of an ATen operator; what is not known is pointwise."""
    if "convolution" in name:
        return _class_of_convolution(work)
    if name in ("mm", "addmm", "mv", "addmv", "dot"):
        return "linear"
    if name in ("bmm", "baddbmm", "addbmm"):
        return "bmm"
    return _CLASS_BY_NAME.get(name, "pointwise")


def _class_of_convolution(work: Work) -> str:
    if work.groups > 1:
        return "depthwise" if work.groups == work.channels else "grouped"
    if work.window == 1:
        return "conv1x1"
    if work.channels <= _FEW_CHANNELS:
        return "stem"
    return "conv3x3" if work.window == 9 and work.stride == 1 else "convkxk"
