"""The latency of kernels from physical figures: a roofline with what keeps kernels below it.

    device  = sum over kernels of [ start + transform + sqrt(compute^2 + memory^2) ]
    host    = kernels * launch
    latency = (device^4 + host^4)^(1/4): the slower of the two, for the other one is hidden behind it
    memory  = bytes / (bandwidth * b_class), less where the bytes fit the last cache
    compute = 2 * macs / (peak * e_class * saturation)

Saturation says how much of the peak a product of this shape can reach: few channels, channels that are
no multiple of what is loaded at once, narrow groups, short rows and few tiles for many cores leave units
idle. The constants (`b`, `e` and the sizes at which half is reached) come from a fit on public
measurements (benchmarks/fit_latency.py) and hold for one way of running networks on one kind of device;
peaks and bandwidth are the device's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lanac.targets.predicted.kernels import KernelList
from lanac.targets.predicted.work import CLASSES, CONVOLUTIONS, DENSE, MULTIPLYING

Array = npt.NDArray[np.float64]

_PLACE = {kind: place for place, kind in enumerate(CLASSES)}
_IS_DENSE = np.array([kind in DENSE for kind in CLASSES])
_IS_MULTIPLYING = np.array([kind in MULTIPLYING for kind in CLASSES])
_IS_CONVOLUTION = np.array([kind in CONVOLUTIONS and kind != "depthwise" for kind in CLASSES])
_IS_DENSE_CONVOLUTION = np.array([kind in ("conv1x1", "conv3x3", "convkxk") for kind in CLASSES])
_HAS_ROWS = np.array([kind in ("norm", "softmax") for kind in CLASSES])
_OWN_KERNELS = (1.0, 9.0, 25.0)
"""Windows of depthwise convolutions that have a kernel of their own; others run a general one."""

_MOST = 1.25
"""No kernel reaches more of the peak: consumer cards clock a little above what it is computed with."""

_LOADED = 8
"""Values of half precision that tensor cores load at once: 16 bytes."""

_BLOCK = 32.0
_TILE = 128.0
"""Rows and columns of the part of a product that one core takes."""


@dataclass(frozen=True)
class Figures:
    """What a device can do.

    Attributes:
        bandwidth: of the main memory, GB/s.
        dense_peak: TFLOP/s of matrix products in the precision asked for, sustained.
        plain_peak: TFLOP/s of everything else: fp32 on a GPU's ordinary units.
        cache_mb: of the last cache.
        cores: streaming multiprocessors, or the threads of a CPU.
        narrow: whether a GPU multiplies in less than single precision, where its convolutions want
            their channels last and turn what does not lie so.
        winograd: how many multiplications of a 3x3 convolution its libraries save by one.
    """

    bandwidth: float
    dense_peak: float
    plain_peak: float
    cache_mb: float
    cores: float
    narrow: bool = False
    winograd: float = 1.0


@dataclass(frozen=True)
class Features:
    """The kernels of a network as arrays, equal kernels once.

    Attributes:
        kind: place in `CLASSES`.
        count: how many kernels are equal.
        macs, read, written, m, n, k, groups, window: as in `Kernel`, in bytes where they are bytes.
        strided, channels_last: 1 where the input lies so.
    """

    kind: npt.NDArray[np.int64]
    count: Array
    macs: Array
    read: Array
    written: Array
    m: Array
    n: Array
    k: Array
    groups: Array
    window: Array
    strided: Array
    channels_last: Array

    @classmethod
    def of(cls, listed: KernelList) -> Features:
        """The features of a kernel list, after precision and fusion."""
        counts: dict[tuple[int, ...], int] = {}
        for row in rows_of(listed):
            counts[row] = counts.get(row, 0) + 1
        return cls.of_table(
            np.array([*counts], dtype=np.float64).reshape(-1, 11),
            np.array([*counts.values()], dtype=np.float64),
        )

    @classmethod
    def of_table(cls, table: Array, counts: Array) -> Features:
        """From rows as `rows_of` gives them, and how often each occurs."""
        return cls(table[:, 0].astype(np.int64), counts, *table[:, 1:].T)


def rows_of(listed: KernelList) -> Iterator[tuple[int, ...]]:
    """The figures of each kernel in the order of the fields of `Features`, without the count."""
    for kernel in listed.kernels:
        w = kernel.work
        yield (
            _PLACE[kernel.kind], w.macs, kernel.read_bytes, kernel.written_bytes, w.m, w.n, w.k,
            w.groups, w.window, int(w.strided), int(w.channels_last),
        )  # fmt: skip


Constants = Mapping[str, float]
"""The fitted constants by name: `launch_us`, `start_us`, `b.CLASS`, `e.CLASS`, `half_*`, ..."""

Members = Mapping[str, Array]
"""Several sets of constants that might as well be true: by name, each (members, 1)."""

_HIDING = 4.0
"""Exponent of the smooth maximum of device and host."""


def whole_ms(device_ms: float, kernels: float, constants: Constants) -> float:
    """The latency of a network whose kernels take `device_ms` together.

    A host that starts kernels more slowly than the device runs them decides instead: small batches.
    """
    host_ms = kernels * constants["launch_us"] * 1e-3
    return float((device_ms**_HIDING + host_ms**_HIDING) ** (1 / _HIDING))


def shares(device_ms: float, kernels: float, constants: Constants) -> tuple[float, float]:
    """How a network's latency grows with its parts: per ms of device time, and per kernel in ms.

    The latency is homogeneous in both, so that the parts of a network weighted with these sum to it
    exactly (Euler's theorem).
    """
    host_ms = kernels * constants["launch_us"] * 1e-3
    whole = whole_ms(device_ms, kernels, constants)
    if whole == 0.0:
        return 1.0, 0.0
    by_device = (device_ms / whole) ** (_HIDING - 1)
    by_host = (host_ms / whole) ** (_HIDING - 1)
    return by_device, by_host * constants["launch_us"] * 1e-3


def per_class(constants: Constants | Members, prefix: str) -> Array:
    """The constants `PREFIX.CLASS` in the order of `CLASSES`, the last axis; 1 where there is none."""
    found = [np.atleast_1d(constants.get(f"{prefix}.{kind}", 1.0)) for kind in CLASSES]
    return np.concatenate(np.broadcast_arrays(*found), axis=-1)


def latencies_ms(features: Features, figures: Figures, constants: Constants | Members) -> Array:
    """What each kernel takes, one of each kind: multiply by `features.count` for the whole.

    Args:
        features: of a network's kernels.
        figures: of the device.
        constants: of the way of running, or several sets of them.

    Returns:
        Milliseconds, in the order of the features: (kernels) or (members, kernels).
    """
    kind = features.kind
    nbytes = features.read + features.written
    speed = figures.bandwidth * 1e6 * per_class(constants, "b")[..., kind]  # bytes per ms
    resting = 1.0 / (1.0 + nbytes / (figures.cache_mb * 1e6 * constants["cache_share"]))
    gain = 1.0 + (constants["cache_gain"] - 1.0) * resting
    slow = 1.0 + (constants["strided"] - 1.0) * features.strided
    row = np.where(_HAS_ROWS[kind] & (features.k > 0), features.k, np.inf)
    short = 1.0 / (1.0 + constants["half_row"] / row)
    memory = nbytes * slow / (speed * gain * short)
    peak = np.where(_IS_DENSE[kind], figures.dense_peak, figures.plain_peak) * 1e9  # flop per ms
    efficiency = per_class(constants, "e")[..., kind] * _saturation(features, figures, constants)
    saved = np.where(kind == _PLACE["conv3x3"], figures.winograd, 1.0)
    compute = 2.0 * features.macs / saved / (peak * np.minimum(efficiency, _MOST))
    turned = _IS_CONVOLUTION[kind] & (features.channels_last == 0) & figures.narrow
    moved = np.where(turned, nbytes, 0.0)
    transform = constants["transform"] * moved / (figures.bandwidth * 1e6)
    taken: Array = constants["start_us"] * 1e-3 + transform + np.hypot(compute, memory)
    return taken


def _is_unaligned(features: Features) -> npt.NDArray[np.bool_]:
    """Where channels do not begin at multiples of what tensor cores load at once."""
    channels = features.k / np.maximum(features.window, 1.0)
    found: npt.NDArray[np.bool_] = (features.n % _LOADED != 0) | (channels % _LOADED != 0)
    return found


def _full(columns: Array) -> Array:
    """Share of the last column block that is used; blocks are filled up."""
    blocks = np.ceil(np.maximum(columns, 1.0) / _BLOCK)
    full: Array = np.maximum(columns, 1.0) / (blocks * _BLOCK)
    return full


def _saturation(features: Features, figures: Figures, constants: Constants | Members) -> Array:
    """Share of the peak that a product of this shape can reach, before the class's efficiency."""
    kind = features.kind
    dense = (
        features.k / (features.k + constants["half_k"])
        * features.n / (features.n + constants["half_n"])
    )  # fmt: skip
    width = np.minimum(features.n, features.k / np.maximum(features.window, 1.0))
    grouped = width / (width + constants["half_width"]) * _full(width) ** constants["padding"]
    dense = dense * _full(features.n) ** constants["padding"]
    unaligned = _is_unaligned(features) & _IS_DENSE_CONVOLUTION[kind] & figures.narrow
    dense = np.where(unaligned, dense / constants["unaligned"], dense)
    head = (
        features.k / (features.k + constants["half_head"])
        * features.n / (features.n + constants["half_tokens"])
    )  # fmt: skip
    share = np.where(kind == _PLACE["grouped"], grouped, dense)
    share = np.where(kind == _PLACE["attention"], head, share)
    window = features.window / (features.window + constants["half_window"])
    window = np.where(
        np.isin(features.window, _OWN_KERNELS), window, window / constants["odd_window"]
    )
    share = np.where(kind == _PLACE["depthwise"], window, share)
    tiles = np.maximum(features.m / _TILE, 1.0) * np.maximum(features.n / _TILE, 1.0)
    tiles = np.where(
        (kind == _PLACE["depthwise"]) | (kind == _PLACE["grouped"]),
        features.m * features.groups * np.maximum(features.n, 1.0) / _TILE**2,
        tiles * features.groups,
    )
    busy = tiles / (tiles + constants["half_tiles"] * figures.cores)
    return np.where(_IS_MULTIPLYING[kind], np.maximum(share * busy, 1e-6), 1.0)
