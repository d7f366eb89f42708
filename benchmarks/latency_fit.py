"""The fit behind predicted latencies: which rows it reads, its starting point, and its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from latency_data import KernelStore, Row
from least_squares import fit

from lanac.targets.device import devices
from lanac.targets.predicted.fusion import RULES
from lanac.targets.predicted.kernels import KernelList
from lanac.targets.predicted.model import Constants, Features, Figures, latencies_ms, rows_of
from lanac.targets.predicted.precision import with_precision
from lanac.targets.predicted.ways import figures_of, regime
from lanac.targets.predicted.work import CLASSES, MULTIPLYING

Array = npt.NDArray[np.float64]

DEVICES = {"a100-sxm4-40": "a100", "a100-80": "a100_80gb", "cpu-i9_10940x": "i9_10940x"} | {
    "cpu-i7_12700h": "i7_12700h"
}
"""Names of the data -> names of lanac, where they differ."""

LEFT_OUT = {"efficientformer_v2"}
"""Families with a kernel that is wrong by more than ten in one framework (data/SOURCES)."""

REPARAMETERISED = (
    "fastvit", "repvit", "repghost", "efficientvit_m", "mobileone", "repvgg", "mobileclip"
)  # fmt: skip
"""Networks that PyTorch 2.9.1's files seem to have measured fused, which the kernels here are not."""

START: dict[str, float] = {
    "launch_us": 8.0, "start_us": 2.0, "cache_gain": 2.0, "cache_share": 0.5, "strided": 1.5,
    "half_row": 20.0, "half_k": 52.0, "half_n": 23.0, "half_width": 63.0, "half_head": 20.0,
    "half_tokens": 30.0, "half_window": 1.0, "padding": 0.5, "unaligned": 1.2, "odd_window": 1.5,
    "half_tiles": 0.3, "transform": 0.3,
    **{f"b.{kind}": 0.8 for kind in CLASSES},
    **{f"e.{kind}": 0.7 for kind in MULTIPLYING},
    "e.depthwise": 0.2,
}  # fmt: skip
"""Physical guesses: most kernels reach four fifths of the bandwidth and 0.7 of the peak."""

FREEDOM = {
    "launch_us": 0.3, "start_us": 0.4, "cache_share": 0.3, "cache_gain": 0.4,
    "e.attention": 0.3, **{f"b.{kind}": 0.25 for kind in CLASSES},
}  # fmt: skip
"""How far constants may go from their start (logarithm), where it is not the usual: no kernel moves more
bytes than the memory gives, so that the bandwidth's share cannot go far up. Heads are of few widths, which
do not tell attention's share of the peak from what narrow heads leave of it."""

MEMBERS = 16
"""Sets of constants that are fitted on halves of the families."""

_FREEDOM = 0.5
_STEP = 1e-4
_LARGE = 1_000_000_007
_MOST = 0.5
"""The largest error of a class: rare ones take the blame for single odd networks."""

_FIELDS = tuple(Features.__dataclass_fields__)
_DAMPING = 0.25
"""A family of n networks weighs n**0.75. Held-out families are predicted worst at 0.75, better at 0.5 and
best at 0.25: large families are varied in themselves."""

_WIDTH = 0.07
"""Residuals larger than this count by their size, not its square."""


@dataclass(frozen=True)
class Sample:
    """A row with the kernels that it ran."""

    row: Row
    features: Features
    figures: Figures
    kernels: float


class Samples:
    """Rows that are predicted together.

    Args:
        samples: the rows.
        constants: of the constants that stay as they are.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.rows = [sample.row for sample in samples]
        self.measured = np.log([sample.row.latency_ms for sample in samples])
        self.kernels = np.array([sample.kernels for sample in samples])
        self._packs = []
        self._by_kind: dict[str, list[tuple[Figures, Features, Array]]] = {}
        for figures in dict.fromkeys(sample.figures for sample in samples):
            places = [i for i, sample in enumerate(samples) if sample.figures == figures]
            parts = [samples[i].features for i in places]
            starts = np.cumsum([0, *(len(part.kind) for part in parts)])[:-1]
            joined = _joined(parts)
            self._packs.append((figures, np.array(places), joined, starts))
            owners = np.repeat(places, [len(part.kind) for part in parts])
            for number, kind in enumerate(CLASSES):
                chosen = joined.kind == number
                if chosen.any():
                    of_kind = Features(*[getattr(joined, f)[chosen] for f in _FIELDS])
                    self._by_kind.setdefault(kind, []).append((figures, of_kind, owners[chosen]))

    def device_ms(self, constants: Constants) -> Array:
        found = np.zeros(len(self.rows))
        for kind in self._by_kind:
            found += self.kind_ms(kind, constants)
        return found

    def kind_ms(self, kind: str, constants: Constants) -> Array:
        """Milliseconds of one class of kernels in each row."""
        found = np.zeros(len(self.rows))
        for figures, features, owners in self._by_kind.get(kind, ()):
            taken = latencies_ms(features, figures, constants) * features.count
            found += np.bincount(owners, taken, len(self.rows))
        return found

    def macs(self) -> Array:
        """Multiplications of each row."""
        found = np.zeros(len(self.rows))
        for _, places, features, starts in self._packs:
            found[places] = np.add.reduceat(features.macs * features.count, starts)
        return found

    def class_shares(self, constants: Constants) -> Array:
        """Share of each class in each row's device time (rows, classes)."""
        found = np.zeros((len(self.rows), len(CLASSES)))
        for figures, places, features, starts in self._packs:
            taken = latencies_ms(features, figures, constants) * features.count
            for kind in range(len(CLASSES)):
                found[places, kind] = np.add.reduceat(taken * (features.kind == kind), starts)
        return found / found.sum(axis=1, keepdims=True)

    def predicted(self, constants: Constants, device_ms: Array | None = None) -> Array:
        """Logarithms of the latencies in ms."""
        device = self.device_ms(constants) if device_ms is None else device_ms
        host = self.kernels * constants["launch_us"] * 1e-3
        logarithms: Array = np.log((device**4 + host**4) ** 0.25)
        return logarithms

    @property
    def weights(self) -> Array:
        """Large families count less per row, so that they do not decide alone."""
        counts = Counter((row.family, row.setup) for row in self.rows)
        weights = np.array([counts[row.family, row.setup] ** -_DAMPING for row in self.rows])
        return weights / weights.mean()


def _joined(parts: Sequence[Features]) -> Features:
    return Features(*[np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS])


@dataclass(frozen=True)
class AnyBatch:
    """Features as functions of the batch: what grows with it, and what stays.

    Attributes:
        slopes, constants: (kernels, figures).
        counts: how often each kernel occurs.
    """

    slopes: Array
    constants: Array
    counts: Array

    @classmethod
    def of(cls, listed: KernelList) -> AnyBatch:
        """From a list at batch `_LARGE`, which nothing that stays can reach."""
        counts = Counter(rows_of(listed))
        split = [[divmod(value, _LARGE) for value in row] for row in counts]
        both = np.array(split, dtype=np.float64).reshape(-1, 11, 2)
        return cls(both[:, :, 0], both[:, :, 1], np.array([*counts.values()], dtype=np.float64))

    def at(self, batch: int) -> Features:
        return Features.of_table(self.slopes * batch + self.constants, self.counts)


class Library:
    """Features of rows, computed once for networks that run alike."""

    def __init__(self, store: KernelStore) -> None:
        self._store = store
        self._known: dict[tuple[object, ...], AnyBatch | None] = {}

    def sample(self, row: Row, rule: str) -> Sample | None:
        """None where the network's kernels or the device's figures are not known."""
        device = devices().get(DEVICES.get(row.device, row.device))
        if device is None:
            return None
        precision = {"amp-fp16": "amp", "fp16": "fp16"}.get(row.precision, "fp32")
        if rule.startswith("tensorrt") and precision == "amp":
            precision = "fp16"
        key = (row.model, row.img, precision, rule)
        if key not in self._known:
            self._known[key] = self._features(*key)
        found = self._known[key]
        if found is None:
            return None
        features = found.at(row.batch)
        if row.layout == "nhwc":
            features.channels_last[:] = 1.0
        threads = int(device.figures["units"].value) if device.kind == "cpu" else 1
        figures = figures_of(device, precision, threads)
        return Sample(row, features, figures, float(found.counts.sum()))

    def _features(self, model: str, img: int, precision: str, rule: str) -> AnyBatch | None:
        listed = self._store.get(model, img, _LARGE)
        if listed is None:
            return None
        return AnyBatch.of(RULES[rule](with_precision(listed, precision)))

    def samples(self, rows: Sequence[Row], rule: str) -> Samples:
        found = [self.sample(row, rule) for row in rows]
        return Samples([sample for sample in found if sample is not None])


def fit_constants(
    samples: Samples,
    start: Constants = START,
    freedom: float = _FREEDOM,
    fixed: Sequence[str] = (),
    rounds: int = 20,
) -> dict[str, float]:
    """The constants that bring the predictions to the measurements.

    Args:
        samples: to fit on.
        start: where to start, and what constants are pulled towards.
        freedom: how far they may go (standard deviation of the logarithm), unless `FREEDOM` says.
        fixed: names of constants that stay.
        rounds: at most.
    """
    names = [name for name in start if name not in fixed]
    kept = {name: start[name] for name in fixed}

    def constants(x: Array) -> dict[str, float]:
        return {**kept, **dict(zip(names, map(float, np.exp(x)), strict=True))}

    def jacobian(x: Array) -> Array:
        """A constant of one class moves that class alone, which makes most columns cheap."""
        parts = {kind: samples.kind_ms(kind, constants(x)) for kind in CLASSES}
        whole = np.sum([*parts.values()], axis=0)
        now = samples.predicted(constants(x), whole)
        columns = []
        for place, name in enumerate(names):
            stepped = x.copy()
            stepped[place] += _STEP
            moved, kind = constants(stepped), name.partition(".")[2]
            device = whole - parts[kind] + samples.kind_ms(kind, moved) if kind else None
            columns.append((samples.predicted(moved, device) - now) / _STEP)
        return np.array(columns).T

    x = fit(
        lambda x: samples.predicted(constants(x)),
        jacobian,
        samples.measured,
        np.log([start[name] for name in names]),
        weights=samples.weights,
        width=_WIDTH,
        freedom=np.array([min(FREEDOM.get(name, freedom), freedom) for name in names]),
        rounds=rounds,
    )
    found = constants(x)
    return {name: found[name] for name in start}


def fit_members(
    library: Library,
    rows: Sequence[Row],
    rule: str,
    start: Constants,
    freedom: float,
    fixed: Sequence[str],
    rounds: int,
    count: int = MEMBERS,
) -> dict[str, list[float]]:
    """Sets of constants that might as well be true: by name, one of each set.

    Each is fitted on a random half of the families: deleting half of the data gives estimates that
    scatter as those of all data do around the truth. Each starts from constants drawn as widely as they
    may go, so that what the families do not decide is as uncertain as the guess that it starts from.
    """
    families = sorted({row.family for row in rows})
    found: dict[str, list[float]] = {name: [] for name in start}
    for number in range(count):
        rng = np.random.default_rng(number)
        half = set(rng.permutation(families)[: (len(families) + 1) // 2])
        drawn = {
            name: value
            if name == "launch_us"  # the host's, which has an error of its own
            else value * float(np.exp(min(FREEDOM.get(name, freedom), freedom) * rng.normal()))
            for name, value in start.items()
        }
        samples = library.samples([row for row in rows if row.family in half], rule)
        for name, value in fit_constants(samples, drawn, freedom, fixed, rounds).items():
            found[name].append(float(f"{value:.4g}"))
    return found


@dataclass(frozen=True)
class Accuracy:
    """How well latencies were predicted.

    Attributes:
        count: networks.
        mape: mean absolute error relative to the measurement.
        bias: mean logarithm of predicted over measured.
        tau: Kendall's, between predicted and measured.
        ratio: mean error of latency ratios within families.
    """

    count: int
    mape: float
    bias: float
    tau: float
    ratio: float


def accuracy(rows: Sequence[Row], residuals: Array) -> Accuracy:
    """The figures of merit, from logarithms of predicted over measured; ratios within one setup."""
    measured = np.log([row.latency_ms for row in rows])
    predicted = measured + residuals
    ratios = family_ratios(rows, residuals)
    return Accuracy(
        len(rows), float(np.mean(np.abs(np.expm1(residuals)))), float(np.mean(residuals)),
        kendall_tau(predicted, measured),
        float(np.mean(np.abs(np.expm1(ratios)))) if len(ratios) else 0.0,
    )  # fmt: skip


def family_ratios(rows: Sequence[Row], residuals: Array) -> Array:
    """Logarithms of predicted over measured ratios of all pairs within a family and a setup."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((row.family, row.setup), []).append(place)
    pairs = [
        residuals[i] - residuals[j]
        for places in groups.values()
        for n, i in enumerate(places)
        for j in places[:n]
    ]
    return np.array(pairs)


def kendall_tau(first: Array, second: Array) -> float:
    """Share of pairs in the same order, less the share in the other one."""
    if len(first) < 2:
        return 1.0
    a = np.sign(first[:, None] - first[None, :])
    b = np.sign(second[:, None] - second[None, :])
    return float((a * b).sum() / (len(first) * (len(first) - 1)))


def folds(rows: Sequence[Row], count: int = 3) -> list[tuple[Array, Array]]:
    """Places of the rows to fit on and of those left out, family by family; large ones first."""
    sizes = Counter(row.family for row in rows)
    loads = [0] * count
    fold: dict[str, int] = {}
    for family, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold[family] = loads.index(min(loads))
        loads[fold[family]] += size
    numbers = np.array([fold[row.family] for row in rows])
    return [(np.flatnonzero(numbers != i), np.flatnonzero(numbers == i)) for i in range(count)]


def spread_of(residuals: Array) -> float:
    """Standard deviation of a normal distribution with the same ninth decile."""
    return float(np.quantile(np.abs(residuals), 0.9) / 1.6449) if len(residuals) else 0.0


def class_errors(shares: Array, residuals: Array, least: float) -> dict[str, float]:
    """Errors that kernels of a class share, from residuals of whole networks.

    The square of a residual is the sum of the squares of (share of a class) * (its error); solved for
    squares that are not negative. Classes that hardly occur get the usual one.

    Args:
        shares: (networks, classes).
        residuals: logarithms, the setup's mean taken off.
        least: smallest error of a class.
    """
    squares = shares**2
    target = np.minimum(residuals**2, np.quantile(residuals**2, 0.995))
    usual = float(np.mean(target) / np.mean(np.sum(squares, axis=1)))
    x = np.full(squares.shape[1], usual)
    gram = squares.T @ squares
    pull = 0.02 * float(np.trace(gram)) / len(x)
    gram += pull * np.eye(len(x))
    right = squares.T @ target + pull * usual
    for _ in range(2000):  # multiplicative updates keep what is positive positive
        x *= right / np.maximum(gram @ x, 1e-12)
    return {
        kind: float(np.clip(np.sqrt(value), least, _MOST))
        for kind, value in zip(CLASSES, x, strict=True)
    }


def by_regime(rows: Sequence[Row], residuals: Array) -> dict[str, Array]:
    """The residuals of each regime of batches."""
    names = np.array([regime(row.batch) for row in rows])
    return {name: residuals[names == name] for name in ("small", "medium", "large")}
