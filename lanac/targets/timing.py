"""Timing that holds on a shared machine: everything compared is interleaved in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]


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

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms ({self.low_ms:.3f} to {self.high_ms:.3f})"


def clock_ns(threads: int) -> int:
    """CPU time of this process where one thread does the work, else wall time.

    On a machine that others use too, one thread's CPU time repeats within two percent where its
    wall time does not (FACTS); with several threads only wall time means latency.
    """
    return time.process_time_ns() if threads == 1 else time.perf_counter_ns()


def time_interleaved(
    runs: Sequence[Run],
    *,
    threads: int,
    rounds: int = 21,
    round_ms: float = 5.0,
    warmups: int = 3,
    progress: Callable[[int], None] | None = None,
) -> list[Timing]:
    """Times several things in turn, again and again, so that drift meets all of them alike.

    Args:
        runs: what to time; each call is one inference.
        threads: threads of one inference; decides the clock.
        rounds: how often each is visited.
        round_ms: about how long each stays at it per visit (at least one call).
        warmups: untimed calls at the first visit.
        progress: called with the number of finished rounds.
    """
    repeats = [_calibrate(run, threads, round_ms, warmups) for run in runs]
    samples: list[list[float]] = [[] for _ in runs]
    for finished in range(1, rounds + 1):
        for index, run in enumerate(runs):
            samples[index].append(_time(run, repeats[index], threads))
        if progress is not None:
            progress(finished)
    return [summarise(values) for values in samples]


def _calibrate(run: Run, threads: int, round_ms: float, warmups: int) -> int:
    for _ in range(warmups):
        run()
    once = max(_time(run, 1, threads), 1e-4)
    return max(1, min(1000, round(round_ms / once)))


def _time(run: Run, repeats: int, threads: int) -> float:
    run()  # brings weights and activations back into the caches that the others used
    start = clock_ns(threads)
    for _ in range(repeats):
        run()
    return (clock_ns(threads) - start) / 1e6 / repeats


def summarise(samples_ms: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(samples_ms) < 2:
        return Timing(samples_ms[0], samples_ms[0], samples_ms[0], len(samples_ms))
    low, median, high = statistics.quantiles(samples_ms, n=4, method="inclusive")
    return Timing(median, low, high, len(samples_ms))
