"""Every method: the known best plan of a small problem, budgets kept, the same for the same seed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lanac.search import METHODS, Ledger, SearchOptions
from lanac.search.enas import Controller
from lanac.search.evolution import mutate

LEARNING = [name for name in METHODS if name != "random"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("share", "resources"), [(0.5, 1), (0.03, 1), (0.4, 2)])
def test_budgets_and_the_number_of_evaluations_are_kept(
    make, space_of, judge_of, name, share, resources
):
    problem = make(8, 6, seed=4, share=share, resources=resources)
    space, judge = space_of(problem), judge_of(problem)
    plans = METHODS[name](space, judge, SearchOptions(60, keep=10), 0)
    assert 0 < len(plans) <= 10
    assert len(set(plans)) == len(plans)
    for plan in [*plans, *judge.plans]:
        space.verified(plan)
    assert len(judge.plans) == len(set(judge.plans)) <= 60
    assert judge.steps == (list(range(60)) if name == "snas" else [])


@pytest.mark.parametrize("name", METHODS)
def test_the_best_of_a_small_problem_is_found(make, space_of, judge_of, every_plan, name):
    problem = make(3, 4, seed=1)
    space, judge = space_of(problem), judge_of(problem)
    best = min(every_plan(space), key=judge.loss)
    plans = METHODS[name](space, judge, SearchOptions(80, keep=3), 0)
    assert best in plans
    if name != "snas":  # its order is that of its own distribution
        assert [*map(judge.loss, plans)] == sorted(map(judge.loss, plans))


@pytest.mark.parametrize("name", LEARNING)
def test_what_learns_beats_drawing_at_random(make, space_of, judge_of, name):
    """On average over problems, with no more plans judged."""

    def regret(method, seed):
        problem = make(12, 9, seed=seed)
        judge = judge_of(problem)
        count = 100 if method == "snas" else 250
        plans = METHODS[method](space_of(problem), judge, SearchOptions(count), seed)
        return min(map(judge.loss, plans))

    seeds = (20, 22)
    assert np.mean([regret(name, seed) for seed in seeds]) < 0.8 * np.mean(
        [regret("random", seed) for seed in seeds]
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_decides_everything(make, space_of, judge_of, name):
    problem = make(6, 5, seed=9)

    def run(seed):
        torch.manual_seed(int.from_bytes(name.encode()[:2], "big") + seed)  # must not matter
        judge = judge_of(problem)
        return METHODS[name](space_of(problem), judge, SearchOptions(40), seed), judge.plans

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run(1)
    assert run(1) == first
    torch.set_rng_state(before)
    METHODS[name](space_of(problem), judge_of(problem), SearchOptions(8), 1)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers go on


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_is_no_number_is_no_best_plan(make, space_of, judge_of, name):
    problem = make(4, 4, seed=2, share=0.7)
    space = space_of(problem)

    class Broken(judge_of):
        """Nothing comes out of a network with op 1 in the first slot."""

        def loss(self, plan):
            return math.nan if plan[0] == 1 else super().loss(plan)

        def mixture(self, shares, step):
            loss, slopes = super().mixture(shares, step)
            return (math.nan, [row * math.nan for row in slopes]) if step < 3 else (loss, slopes)

    plans = METHODS[name](space, Broken(problem), SearchOptions(60, keep=2), 0)
    assert plans
    if name != "snas":
        assert plans[0][0] != 1


@pytest.mark.parametrize("name", METHODS)
def test_one_plan_alone_ends_the_search(make, space_of, judge_of, name):
    problem = make(4, 3, seed=6)
    only = replace(problem, fixed=dict(enumerate(space_of(problem).start)))
    judge = judge_of(only)
    plans = METHODS[name](space_of(only), judge, SearchOptions(50), 0)
    assert plans == [space_of(problem).start]


def test_a_mutation_is_another_plan_within_the_budget(make, space_of):
    space, rng = space_of(make(8, 4, seed=3, share=0.3)), np.random.default_rng(0)
    parent = space.start
    for _ in range(50):
        child = mutate(space, parent, rng)
        assert child != parent
        assert sum(a != b for a, b in zip(child, parent, strict=True)) <= 2
        assert space.allows(child)
        parent = child


def test_the_probabilities_of_all_plans_add_up(make, space_of, every_plan):
    """Of the controller, under a limit: the mask leaves no plan that breaks it."""
    space = space_of(make(4, 3, seed=7, share=0.4))
    torch.manual_seed(0)
    controller = Controller(space)
    log_probabilities, entropies = controller(every_plan(space))
    assert float(log_probabilities.detach().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert bool((entropies >= 0).all())


def test_a_ledger_asks_once_and_never_too_much(make, space_of, judge_of, every_plan):
    problem = make(3, 3, seed=0, share=0.8)
    judge, plans = judge_of(problem), every_plan(space_of(problem))
    ledger = Ledger(judge, 4)
    ledger.losses(plans[:2])
    ledger.losses([plans[1], plans[2], plans[2]])
    assert judge.plans == plans[:3]
    assert ledger.left == 1
    with pytest.raises(ValueError, match=r"^2 new plans to judge, 1 evaluations left$"):
        ledger.losses(plans[3:5])
    assert ledger.best(2) == sorted(plans[:3], key=judge.loss)[:2]
