"""Listings against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanac.solver import walk
from lanac.solver.listing import Columns, Window
from lanac.solver.walk import TooMany, Walk


def random_columns(seed, sizes, knapsacks, cuts, grid):
    """Columns with rounded numbers if `grid`, so that there are ties and limits met exactly."""
    draw = np.random.default_rng(seed)
    slot = np.repeat(np.arange(len(sizes)), sizes)
    regrets, weights = draw.random(len(slot)), draw.random((knapsacks, len(slot)))
    if grid:
        regrets, weights = np.round(4 * regrets) / 4, np.round(4 * weights) / 4
    columns = Columns(
        slot,
        regrets,
        weights * 2 / len(sizes),
        np.zeros((0, len(slot)), np.int8),
        np.zeros(0, np.int64),
    )
    for _ in range(cuts):
        counted = np.flatnonzero(draw.random(len(slot)) < 0.5)
        columns.add_cut(counted, int(draw.integers(0, len(sizes) + 1)))
    return columns, draw


def windows_of(columns, box, draw, count):
    """Relaxations at random multipliers, each of which is valid."""
    rows = len(columns.weights) + len(columns.most)
    prices = [draw.random(rows) * (draw.random(rows) < 0.6) for _ in range(count)]
    return [Window.at(columns, box, one) for one in prices]


def enumerated(columns, box, highest):
    """Choices that keep all rows, with a regret of at most the highest."""
    groups = [np.flatnonzero(box & (columns.slot == slot)) for slot in range(columns.slots)]
    for choice in itertools.product(*groups):
        one = np.array(choice)
        if columns.regrets[one].sum() > highest:
            continue
        if (columns.weights[:, one].sum(1) <= 1).all() and (
            columns.counted[:, one].sum(1) <= columns.most
        ).all():
            yield choice


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    knapsacks=st.integers(0, 2),
    cuts=st.integers(0, 12),
    windows=st.integers(1, 3),
    grid=st.booleans(),
    chunk=st.sampled_from([1, 7, 16_384]),
    front=st.sampled_from([1, 3, 300]),
    narrow=st.sampled_from([1, 120]),
)
def test_everything_below_the_regret_is_listed(
    seed, sizes, knapsacks, cuts, windows, grid, chunk, front, narrow
):
    columns, draw = random_columns(seed, sizes, knapsacks, cuts, grid)
    box = (draw.random(len(columns.slot)) < 0.8) | (np.diff(columns.slot, prepend=-1) > 0)
    highest = float(draw.random() * len(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_CHUNK", chunk)
        patch.setattr(walk, "_FRONT", front)
        patch.setattr(walk, "_NARROW", narrow)
        relaxed = windows_of(columns, box, draw, windows)
        listed = Walk(relaxed, highest, math.inf, math.inf).choices()
    met = set(map(tuple, listed.tolist()))
    assert len(met) == len(listed)
    assert set(enumerated(columns, box, highest)) <= met
    assert box[listed].all()
    assert (columns.slot[listed] == np.arange(columns.slots)).all()
    assert (columns.weights[:, listed].sum(2) <= 1 + 1e-8).all()
    assert (columns.counted[:, listed].sum(2) <= columns.most[:, None]).all()


def test_counts_beyond_a_byte():
    """Of 300 slots 299 may agree with the plan of zeros: one deviates, or more."""
    slots = 300
    regrets = np.tile([0.0, 1.0], slots)
    columns = Columns(
        np.repeat(np.arange(slots), 2),
        regrets,
        np.zeros((0, 2 * slots)),
        np.zeros((0, 2 * slots), np.int8),
        np.zeros(0, np.int64),
    )
    columns.add_cut(np.arange(0, 2 * slots, 2), slots - 1)
    window = Window.at(columns, np.ones(2 * slots, bool), np.zeros(1))
    listed = Walk([window], 1.0, math.inf, math.inf).choices()
    assert len(listed) == slots
    assert (columns.regrets[listed].sum(1) == 1).all()


@pytest.mark.parametrize(
    ("plans", "limit", "deadline"), [(63, math.inf, math.inf), (64, 3, math.inf), (64, 1e9, 0.0)]
)
def test_too_many(monkeypatch, plans, limit, deadline):
    """Choices, partial choices, or the time."""
    monkeypatch.setattr(walk, "_PLANS", plans)
    columns, _ = random_columns(0, [2] * 6, 0, 0, grid=False)
    window = Window.at(columns, np.ones(12, bool), np.zeros(0))
    assert len(Walk([window], 6.0, math.inf, math.inf).choices() if plans == 64 else "-" * 64) == 64
    with pytest.raises(TooMany):
        Walk([window], 6.0, limit, deadline).choices()
