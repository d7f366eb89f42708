"""Timing that holds on a shared machine: everything compared is interleaved in one run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]

Sampler = Callable[[int], float]
"""Runs something so many times, after one untimed time, and says how many milliseconds each took."""

_NOTCH = 1.57


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing.

    Attributes:
        median_ms: median over rounds.
        low_ms: first quartile.
        high_ms: third quartile.
        rounds: number of rounds.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    rounds: int

    @property
    def spread(self) -> float:
        """Distance of the quartiles, relative to the median."""
        return (self.high_ms - self.low_ms) / self.median_ms if self.median_ms else 0.0

    @property
    def within(self) -> float:
        """How far off the median may be, as a share of it.

        The notch of a box plot, about a 95 % interval whatever the distribution (McGill, Tukey and
        Larsen, Variations of Box Plots, 1978).
        """
        return _NOTCH * self.spread / math.sqrt(self.rounds)

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms ({self.low_ms:.3f} to {self.high_ms:.3f})"


@dataclass(frozen=True)
class Effort:
    """How long something is timed.

    Attributes:
        within: how well a median has to be known, as a share of it.
        least: visits that everything gets.
        most: after so many it stays as it is, known well or not.
        round_ms: about how long each stays at it per visit (at least one call).
        warmups: untimed calls at the first visit.
    """

    within: float = 0.02
    least: int = 7
    most: int = 61
    round_ms: float = 5.0
    warmups: int = 2


@dataclass(frozen=True)
class Comparison:
    """Something timed beside a reference.

    Attributes:
        timing: its own.
        reference: the reference's in the same rounds.
    """

    timing: Timing
    reference: Timing

    @property
    def ratio(self) -> float:
        """Its latency as a share of the reference's, both medians of the same minutes."""
        return self.timing.median_ms / self.reference.median_ms

    @property
    def within(self) -> float:
        """How far off the ratio may be, as a share of it."""
        return math.hypot(self.timing.within, self.reference.within)


def clock_ns(is_cpu_time: bool) -> int:
    """CPU time of this process where one thread does the work, else wall time.

    On a machine that others use too, one thread's CPU time repeats within two percent where its
    wall time does not (FACTS); with several threads only wall time means latency.
    """
    return time.process_time_ns() if is_cpu_time else time.perf_counter_ns()


def sampler(run: Run, is_cpu_time: bool) -> Sampler:
    """Times a function of this process."""

    def sample(repeats: int) -> float:
        run()  # brings weights and activations back into the caches that the others used
        start = clock_ns(is_cpu_time)
        for _ in range(repeats):
            run()
        return (clock_ns(is_cpu_time) - start) / 1e6 / repeats

    return sample


def sample_interleaved(
    samplers: Sequence[Sampler],
    *,
    rounds: int = 21,
    round_ms: float = 5.0,
    warmups: int = 3,
    progress: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Times several things in turn, again and again, so that drift meets all of them alike.

    Args:
        samplers: what to time.
        rounds: how often each is visited.
        round_ms: about how long each stays at it per visit (at least one call).
        warmups: untimed calls at the first visit.
        progress: called with the number of finished rounds.

    Returns:
        Milliseconds of each in each round.
    """
    repeats = [_repeats(sample, round_ms, warmups) for sample in samplers]
    samples: list[list[float]] = [[] for _ in samplers]
    for finished in range(1, rounds + 1):
        for index, sample in enumerate(samplers):
            samples[index].append(sample(repeats[index]))
        if progress is not None:
            progress(finished)
    return samples


def time_interleaved(samplers: Sequence[Sampler], *, rounds: int = 21) -> list[Timing]:
    """`sample_interleaved`, summarised."""
    return [summarise(samples) for samples in sample_interleaved(samplers, rounds=rounds)]


def compare_interleaved(
    reference: Sampler, samplers: Sequence[Sampler], effort: Effort
) -> list[Comparison]:
    """Times things beside a reference, each until it is known well enough.

    All are visited in turn, the reference once a round. What is known well leaves: its median is
    compared with that of the reference's visits up to then.

    Returns:
        One comparison for each sampler.
    """
    repeats = [_repeats(sample, effort.round_ms, effort.warmups) for sample in samplers]
    own_repeats = _repeats(reference, effort.round_ms, effort.warmups)
    own: list[float] = []
    samples: list[list[float]] = [[] for _ in samplers]
    active = list(range(len(samplers)))
    while active:
        own.append(reference(own_repeats))
        for index in active:
            samples[index].append(samplers[index](repeats[index]))
        if len(own) >= effort.least:
            known = summarise(own).within
            active = [
                index
                for index in active
                if math.hypot(known, summarise(samples[index]).within) > effort.within
            ]
        if len(own) >= effort.most:
            break
    return [Comparison(summarise(taken), summarise(own[: len(taken)])) for taken in samples]


def _repeats(sample: Sampler, round_ms: float, warmups: int) -> int:
    """How many calls take about `round_ms`."""
    once = sample(max(warmups, 1))
    if once < round_ms / 2:  # the first calls are slow
        once = sample(1)
    return max(1, min(1000, round(round_ms / max(once, 1e-4))))


def summarise(samples_ms: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(samples_ms) < 2:
        return Timing(samples_ms[0], samples_ms[0], samples_ms[0], len(samples_ms))
    low, median, high = statistics.quantiles(samples_ms, n=4, method="inclusive")
    return Timing(median, low, high, len(samples_ms))
