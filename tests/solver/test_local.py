"""The selection around a plan, against functions of plans that are known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from lanac.solver import (
    SelectionProblem,
    SelectionStatus,
    around,
    changed,
    interaction,
    promising,
    solve,
    without,
)
from lanac.solver.reduce import exact_score

SLOTS, OPS = 4, 3
Choices = tuple[int, ...]


def problem(limit: float = 6.0) -> SelectionProblem:
    """Op 0 costs 3, op 1 costs 2, op 2 costs 1; in the scores each step costs a little more."""
    return SelectionProblem(
        slots=tuple(f"slot {place}" for place in range(SLOTS)),
        ops=tuple(("teacher", "half", "third") for _ in range(SLOTS)),
        scores=tuple((0.0, 1.0 + place, 4.0 + 3 * place) for place in range(SLOTS)),
        costs={"flops": tuple((3.0, 2.0, 1.0) for _ in range(SLOTS))},
        constants={"flops": 0.0},
        limits={"flops": limit},
        own=(0,) * SLOTS,
    )


def pairwise(seed: int) -> Callable[[Choices], float]:
    """A loss in which every two choices interact."""
    rng = random.Random(seed)
    single = [[rng.random() for _ in range(OPS)] for _ in range(SLOTS)]
    table = {
        (i, j, k, m): rng.uniform(-1, 1)
        for i, k in itertools.combinations(range(SLOTS), 2)
        for j, m in itertools.product(range(OPS), repeat=2)
    }

    def loss(choices: Choices) -> float:
        total = sum(row[op] for row, op in zip(single, choices, strict=True))
        pairs = itertools.combinations(enumerate(choices), 2)
        return total + sum(table[i, j, k, m] for (i, j), (k, m) in pairs)

    return loss


EVERY = list(itertools.product(range(OPS), repeat=SLOTS))
SINGLES = list(itertools.product(range(SLOTS), range(OPS)))


def measured(loss: Callable[[Choices], float], base: Choices) -> tuple[dict, dict]:
    """All changes of one slot, and what all pairs of them add."""
    pairs = [pair for pair in SINGLES if base[pair[0]] != pair[1]]
    single = {pair: loss(changed(base, pair)) for pair in pairs}
    changes = {pair: value - loss(base) for pair, value in single.items()}
    interactions = {
        (one, two): interaction(loss(base), single[one], single[two], loss(changed(base, one, two)))
        for one, two in itertools.combinations(pairs, 2)
        if one[0] != two[0]
    }
    return changes, interactions


@pytest.mark.parametrize("seed", range(4))
def test_with_all_pair_terms_a_pairwise_loss_is_met_everywhere(seed: int) -> None:
    loss, base = pairwise(seed), (2, 1, 1, 2)
    changes, interactions = measured(loss, base)
    refined = around(problem(), base, changes, interactions)
    for choices in EVERY:
        assert float(exact_score(refined, choices)) == pytest.approx(loss(choices) - loss(base))
    [best] = solve(refined).plans
    allowed = [choices for choices in EVERY if sum(3 - op for op in choices) <= 6]
    assert best.choices == min(allowed, key=loss)


def test_without_pair_terms_changes_of_one_slot_are_met() -> None:
    loss, base = pairwise(5), (2, 1, 1, 2)
    refined = around(problem(), base, measured(loss, base)[0])
    assert refined.pair_scores == {}
    for pair in SINGLES:
        choices = changed(base, pair)
        assert float(exact_score(refined, choices)) == pytest.approx(loss(choices) - loss(base))


def test_what_is_not_measured_is_not_chosen() -> None:
    base = (2, 1, 1, 2)
    refined = around(problem(), base, {(1, 2): -1.0, (0, 1): 0.5})
    found = solve(refined).plans
    assert [plan.choices for plan in found] == [(2, 2, 1, 2)]
    several = replace(refined, plan_count=9)
    selection = solve(several)
    assert selection.status is SelectionStatus.FEWER_PLANS
    assert {plan.choices for plan in selection.plans} == {
        (2, 1, 1, 2), (2, 2, 1, 2), (1, 2, 1, 2),
    }  # fmt: skip


def test_plans_that_were_measured_do_not_come_again() -> None:
    first = solve(problem()).plans[0].choices
    second = solve(without(problem(), [first])).plans[0].choices
    assert second != first
    third = without(without(problem(), [first]), [second])
    assert third.forbidden == (tuple(enumerate(first)), tuple(enumerate(second)))
    assert solve(third).plans[0].choices not in (first, second)


def test_the_most_promising_changes_come_first() -> None:
    """In the order of the best plan that contains them, as far as the bound knows it."""
    base = solve(problem()).plans[0].choices
    found = promising(problem(), base, 99)
    assert set(found) == {pair for pair in SINGLES if base[pair[0]] != pair[1]}
    assert promising(problem(), base, 3) == found[:3]

    def best_with(pair: tuple[int, int]) -> float:
        plans = [c for c in EVERY if c[pair[0]] == pair[1] and sum(3 - op for op in c) <= 6]
        return min(float(exact_score(problem(), choices)) for choices in plans)

    values = [best_with(pair) for pair in found]
    assert values[0] == min(values) and values[-1] == max(values)


def test_what_no_plan_can_contain_is_not_promising() -> None:
    """With a limit of 5, one slot alone can take more than the cheapest op, and not the teacher's."""
    tight = problem(5.0)
    found = promising(tight, (2, 2, 2, 2), 99)
    assert sorted(found) == [(slot, 1) for slot in range(SLOTS)]
    assert promising(problem(3.0), (2, 2, 2, 2), 99) == []
