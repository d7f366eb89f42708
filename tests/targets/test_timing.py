from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.targets import Timing, time_interleaved, timing
from lanac.targets.timing import summarise


class Bench:
    """A clock that only the runs move; each run of a thing takes what it is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.calls: list[str] = []
        self.clocks: set[int] = set()

        def clock(threads: int) -> int:
            self.clocks.add(threads)
            return self.now_ns

        monkeypatch.setattr(timing, "clock_ns", clock)

    def run(self, name: str, *millis: float) -> timing.Run:
        """Takes the durations in turn; the last one again and again."""
        durations = list(millis)

        def call() -> None:
            self.calls.append(name)
            self.now_ns += int(1e6 * (durations.pop(0) if len(durations) > 1 else durations[0]))

        return call


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_every_thing_gets_its_own_time(bench: Bench) -> None:
    runs = [bench.run("a", 2.0), bench.run("b", 5.0)]
    a, b = time_interleaved(runs, threads=1, rounds=5)
    assert a == Timing(2.0, 2.0, 2.0, 5)
    assert b == Timing(5.0, 5.0, 5.0, 5)
    assert bench.clocks == {1}


def test_things_are_visited_in_turn(bench: Bench) -> None:
    runs = [bench.run("a", 5.0), bench.run("b", 5.0)]
    finished: list[int] = []
    time_interleaved(runs, threads=2, rounds=3, round_ms=5.0, warmups=0, progress=finished.append)
    assert "".join(bench.calls) == "aabb" + "aabb" * 3  # each visit: once to warm up, once timed
    assert finished == [1, 2, 3]
    assert bench.clocks == {2}


def test_quick_things_are_repeated_for_as_long_as_slow_ones(bench: Bench) -> None:
    runs = [bench.run("a", 0.5), bench.run("b", 100.0)]
    time_interleaved(runs, threads=1, rounds=1, round_ms=5.0, warmups=0)
    assert bench.calls[4:] == ["a"] * 11 + ["b"] * 2


def test_a_thing_that_takes_no_time_at_all_is_repeated_a_thousand_times(bench: Bench) -> None:
    (found,) = time_interleaved([bench.run("a", 0.0)], threads=1, rounds=2, warmups=0)
    assert found.median_ms == 0
    assert found.spread == 0
    assert len(bench.calls) == 2 + 2 * 1001


def test_warm_ups_are_not_timed(bench: Bench) -> None:
    slow_start = bench.run("a", 900, 900, 900, 900, 4)
    (found,) = time_interleaved([slow_start], threads=1, rounds=3, warmups=3)
    assert found.high_ms == 4


def test_summary_by_hand() -> None:
    found = summarise([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found == Timing(3.0, 2.0, 4.0, 5)
    assert found.spread == pytest.approx(2 / 3)
    assert str(found) == "3.000 ms (2.000 to 4.000)"
    assert summarise([7.0]) == Timing(7.0, 7.0, 7.0, 1)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=30))
def test_the_median_lies_between_the_quartiles(samples: list[float]) -> None:
    found = summarise(samples)
    assert min(samples) <= found.low_ms <= found.median_ms <= found.high_ms <= max(samples)
