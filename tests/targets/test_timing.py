from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanac.targets import (
    Effort,
    Timing,
    compare_interleaved,
    sample_interleaved,
    time_interleaved,
    timing,
)
from lanac.targets.timing import summarise


class Bench:
    """A clock that only the runs move; each run of a thing takes what it is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.calls: list[str] = []
        self.clocks: set[bool] = set()

        def clock(is_cpu_time: bool) -> int:
            self.clocks.add(is_cpu_time)
            return self.now_ns

        monkeypatch.setattr(timing, "clock_ns", clock)

    def sampler(self, name: str, *millis: float, is_cpu_time: bool = True) -> timing.Sampler:
        """Takes the durations in turn; the last one again and again."""
        durations = list(millis)

        def call() -> None:
            self.calls.append(name)
            self.now_ns += int(1e6 * (durations.pop(0) if len(durations) > 1 else durations[0]))

        return timing.sampler(call, is_cpu_time)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_every_thing_gets_its_own_time(bench: Bench) -> None:
    a, b = time_interleaved([bench.sampler("a", 2.0), bench.sampler("b", 5.0)], rounds=5)
    assert a == Timing(2.0, 2.0, 2.0, 5)
    assert b == Timing(5.0, 5.0, 5.0, 5)
    assert bench.clocks == {True}


def test_things_are_visited_in_turn(bench: Bench) -> None:
    samplers = [bench.sampler(name, 5.0, is_cpu_time=False) for name in "ab"]
    finished: list[int] = []
    taken = sample_interleaved(samplers, rounds=3, warmups=1, progress=finished.append)
    # At first one warm-up and as many calls as `warmups` says; each visit warms up once, too.
    assert "".join(bench.calls) == "aabb" + "aabb" * 3
    assert taken == [[5.0] * 3] * 2
    assert finished == [1, 2, 3]
    assert bench.clocks == {False}


def test_quick_things_are_repeated_for_as_long_as_slow_ones(bench: Bench) -> None:
    samplers = [bench.sampler("a", 0.5), bench.sampler("b", 100.0)]
    sample_interleaved(samplers, rounds=1, round_ms=5.0, warmups=1)
    assert bench.calls[-13:] == ["a"] * 11 + ["b"] * 2


def test_a_thing_that_takes_no_time_at_all_is_repeated_a_thousand_times(bench: Bench) -> None:
    (found,) = time_interleaved([bench.sampler("a", 0.0)], rounds=2)
    assert found.median_ms == 0
    assert found.spread == found.within == 0
    assert len(bench.calls) == 4 + 2 + 2 * 1001


def test_warm_ups_are_not_timed(bench: Bench) -> None:
    (found,) = time_interleaved([bench.sampler("a", 900, 900, 900, 900, 4)], rounds=3)
    assert found.high_ms == 4


class TestBesideAReference:
    EFFORT = Effort(within=0.02, least=5, most=20, warmups=1)

    def test_what_is_steady_is_known_after_the_least_number_of_rounds(self, bench: Bench) -> None:
        found = compare_interleaved(
            bench.sampler("t", 10.0),
            [bench.sampler("a", 2.0), bench.sampler("b", 5.0)],
            self.EFFORT,
        )
        assert [item.ratio for item in found] == [0.2, 0.5]
        assert [item.timing.rounds for item in found] == [5, 5]
        assert [item.within for item in found] == [0.0, 0.0]

    def test_what_scatters_is_timed_longer_than_its_neighbours(self, bench: Bench) -> None:
        scattering = [5.0, 5.0, *[4.0, 6.0] * 10]
        steady, other = compare_interleaved(
            bench.sampler("t", 10.0),
            [bench.sampler("a", 5.0), lambda _: scattering.pop(0)],
            self.EFFORT,
        )
        assert steady.timing.rounds == 5
        assert other.timing.rounds == 20
        assert other.within > 0.02
        assert bench.calls.count("a") == 2 + 2 * 5  # it left after the fifth

    def test_drift_meets_both_alike(self) -> None:
        """A machine that slows down from round to round: ratios of the same rounds stay."""
        now = {"t": 10.0}

        def teacher(_: int) -> float:
            now["t"] *= 1.05
            return now["t"]

        (found,) = compare_interleaved(teacher, [lambda _: now["t"] / 4], self.EFFORT)
        assert found.ratio == pytest.approx(0.25)

    def test_nothing_to_compare(self) -> None:
        assert compare_interleaved(lambda _: 1.0, [], self.EFFORT) == []


def test_summary_by_hand() -> None:
    found = summarise([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found == Timing(3.0, 2.0, 4.0, 5)
    assert found.spread == pytest.approx(2 / 3)
    assert found.within == pytest.approx(1.57 * 2 / 3 / 5**0.5)
    assert str(found) == "3.000 ms (2.000 to 4.000)"
    assert summarise([7.0]) == Timing(7.0, 7.0, 7.0, 1)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=30))
def test_the_median_lies_between_the_quartiles(samples: list[float]) -> None:
    found = summarise(samples)
    assert min(samples) <= found.low_ms <= found.median_ms <= found.high_ms <= max(samples)
