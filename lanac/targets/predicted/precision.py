"""Precision as a rule on kernel lists: what becomes narrower, and which casts that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lanac.errors import TargetError, unknown_name
from lanac.targets.predicted.kernels import Kernel, KernelList, Operand
from lanac.targets.predicted.work import MULTIPLYING, Work

_WIDE, _HALF, _BYTE = 4, 2, 1
_TO_WIDE = {"_softmax", "_log_softmax", "sum", "prod", "cumsum"}
"""Under autocast these read half precision and write single precision, in one kernel."""

_CAST_TO_WIDE = {
    "pow",
    "exp",
    "log",
    "norm",
    "linalg_vector_norm",
    "reciprocal",
    "rsqrt",
    "acos",
    "erfinv",
}
"""Under autocast these get their input cast to single precision."""


def with_precision(listed: KernelList, precision: str) -> KernelList:
    """The kernels as they run in a precision.

    Args:
        listed: recorded in single precision.
        precision: fp32; fp16, bf16: the whole network converted (`.half()`); amp: torch.autocast, with
            norms kept in half precision as timm's fast norm does; int8.

    Raises:
        TargetError: an unknown precision.
    """
    rules: dict[str, Callable[[KernelList], KernelList]] = {
        "fp32": lambda kernels: kernels,
        "fp16": lambda kernels: _converted(kernels, _HALF),
        "bf16": lambda kernels: _converted(kernels, _HALF),
        "int8": lambda kernels: _converted(kernels, _BYTE),
        "amp": _autocast,
    }
    if precision not in rules:
        raise TargetError(unknown_name("precision", precision, rules))
    return rules[precision](listed)


def _converted(listed: KernelList, itemsize: int) -> KernelList:
    def narrow(operand: Operand) -> Operand:
        return replace(operand, itemsize=itemsize) if operand.floating else operand

    kernels = [
        replace(k, reads=tuple(map(narrow, k.reads)), writes=tuple(map(narrow, k.writes)))
        for k in listed.kernels
    ]
    return replace(listed, kernels=tuple(kernels))


def _autocast(listed: KernelList) -> KernelList:
    sizes: dict[int, int] = {}  # bytes of an element of each value, as it now is
    casts: dict[tuple[int, int], Operand] = {}  # value and size -> the cast value
    kernels: list[Kernel] = []
    fresh = 1 + max((o.value for k in listed.kernels for o in (*k.reads, *k.writes)), default=0)

    def as_size(operand: Operand, itemsize: int) -> Operand:
        nonlocal fresh
        now = replace(operand, itemsize=sizes.get(operand.value, operand.itemsize))
        if not operand.floating or now.itemsize == itemsize:
            return now
        cast = casts.get((operand.value, itemsize)) if operand.weight else None
        if cast is None:
            cast = replace(now, value=fresh, itemsize=itemsize)
            fresh += 1
            kernels.append(Kernel("cast", "cast", (now,), (cast,), Work()))
            casts[operand.value, itemsize] = cast
        return replace(cast, elements=operand.elements)

    for kernel in listed.kernels:
        wanted = (
            _HALF if kernel.kind in MULTIPLYING else _WIDE if kernel.name in _CAST_TO_WIDE else None
        )
        if wanted is None:
            reads = tuple(
                replace(o, itemsize=sizes.get(o.value, o.itemsize)) if o.floating else o
                for o in kernel.reads
            )
        else:
            reads = tuple(as_size(operand, wanted) for operand in kernel.reads)
        size = wanted or _result_size(kernel, reads)
        writes = tuple(replace(o, itemsize=size) if o.floating else o for o in kernel.writes)
        for operand in writes:
            sizes[operand.value] = operand.itemsize
        kernels.append(replace(kernel, reads=reads, writes=writes))
    return replace(listed, kernels=tuple(kernels))


def _result_size(kernel: Kernel, reads: tuple[Operand, ...]) -> int:
    """Norms and what works in place give the type of their input, the rest the widest that comes in."""
    floating = [operand for operand in reads if operand.floating]
    if kernel.name in _TO_WIDE or not floating:
        return _WIDE
    if kernel.in_place or kernel.kind in ("norm", "batch_norm"):
        return floating[0].itemsize
    # Values without a dimension, such as a trained gain, follow the others.
    widening = [operand for operand in floating if not operand.scalar] or floating
    return max(operand.itemsize for operand in widening)
