"""Plans found by judging whole networks: within the budget, and kept when a run is killed."""

from __future__ import annotations

import shutil

import pytest
import torch

from lanac import Instruments, begin, run_passes
from lanac.errors import CommandError, InfeasibleBudgetError
from lanac.frontend.model_file import load_model_file
from lanac.ir import TEACHER
from lanac.ops.pool import parse_pool
from lanac.passes import (
    DistillCandidates,
    EnumeratePool,
    MeasureCosts,
    PrunePool,
    ScoreCandidates,
    SearchPlans,
    SelectPlans,
    plan_judge,
)
from lanac.passes.latency import Thoroughness
from lanac.passes.plan_judge import PlanJudge
from lanac.passes.search_plans import SEARCHES, check_search, plan_search
from lanac.search import METHODS, SearchOptions
from lanac.targets import Effort
from lanac.workspace import Workspace

PREPARE = [
    MeasureCosts(Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))),
    PrunePool(),
    DistillCandidates(samples=32, batch=16),
    ScoreCandidates(64, 32),
]


@pytest.fixture(scope="module")
def ready(trained, tmp_path_factory):
    """Prepared once; not to be written."""
    file = load_model_file(trained / "model.py")
    out = tmp_path_factory.mktemp("ready")
    begun = begin(file.model, train_data=file.train_data, budget="flops=0.5x", out=out)
    pool = EnumeratePool(parse_pool("identity,slim(w=0.5),slim(w=0.25)"))
    return run_passes(begun, [pool, *PREPARE])


@pytest.fixture
def prepared(ready, tmp_path):
    """The same in a workspace of its own."""
    shutil.copytree(ready.workspace.folder, tmp_path / "workspace")
    return ready.having(workspace=Workspace(tmp_path / "workspace"), instruments=Recorder())


class Recorder(Instruments):
    """Remembers what a pass says."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


def search(method, evaluations=12):
    return SearchPlans(method, SearchOptions(evaluations, keep=4), images=48, batch=32)


def no_work(*_):
    pytest.fail("computed what is stored")


@pytest.mark.parametrize("method", METHODS)
def test_plans_keep_the_budget_and_a_second_run_computes_nothing(prepared, method, monkeypatch):
    found = search(method).search(prepared)
    limit = 0.5 * prepared.costs.teacher["flops"]
    assert 0 < len(found.plans) <= 4
    assert len({plan.ops for plan in found.plans}) == len(found.plans)
    assert all(plan.costs["flops"] <= limit for plan in found.plans)
    assert found.evaluations == 12
    best = run_passes(prepared, [SelectPlans(1)]).plans[0]
    for plan in found.plans:
        assert plan.score >= best.score
        assert (plan.gap == 0) == (plan.score == best.score)
    monkeypatch.setattr(plan_judge.PlanEvaluation, "losses", no_work)
    monkeypatch.setattr(plan_judge._Mixture, "run", no_work)
    assert search(method).search(prepared).plans == found.plans


@pytest.mark.parametrize("method", ["evolution", "snas"])
def test_a_killed_search_goes_on_where_it_was(prepared, method, monkeypatch):
    kind = plan_judge._Mixture if method == "snas" else plan_judge.PlanEvaluation
    name = "run" if method == "snas" else "losses"
    original, computed = getattr(kind, name), []

    def counted(self, networks, *arguments):
        computed.append(1 if method == "snas" else len(networks))
        if killed and sum(computed) > 7:
            raise KeyboardInterrupt
        return original(self, networks, *arguments)

    monkeypatch.setattr(kind, name, counted)
    killed = True
    with pytest.raises(KeyboardInterrupt):
        search(method).search(prepared)
    before = sum(computed[:-1])
    assert before > 0
    killed, computed[:] = False, []
    found = search(method).search(prepared)
    assert sum(computed) == 12 - before
    assert found.evaluations == 12


def test_what_was_judged_costs_what_it_cost(prepared):
    plan = (0,) * len(prepared.program.slots)
    first, again = PlanJudge(prepared, 48, 32), PlanJudge(prepared, 48, 32)
    assert first.losses([plan]) == again.losses([plan])
    assert first.spent == first.seconds == again.seconds > 0
    assert again.spent == 0
    assert first.asked == again.asked == 1


def test_a_mixture_of_one_op_each_is_that_network(prepared):
    judge = PlanJudge(prepared, 32, 32)
    pool = [prepared.pool[slot.name] for slot in prepared.program.slots]

    def shares(plan):
        rows = [torch.zeros(len(ops)) for ops in pool]
        for row, op in zip(rows, plan, strict=True):
            row[op] = 1
        return rows

    own = [ops.index(TEACHER) for ops in pool]
    teacher, _ = judge.mixture(shares(own), 0)
    other, _ = judge.mixture(shares([len(ops) - 1 for ops in pool]), 0)
    assert 0 < teacher < other


def test_slopes_of_a_mixture_are_its_derivative(prepared):
    judge = PlanJudge(prepared, 32, 32)
    pool = [prepared.pool[slot.name] for slot in prepared.program.slots]
    generator = torch.Generator().manual_seed(0)
    shares = [torch.rand(len(ops), generator=generator).softmax(0) for ops in pool]
    _, slopes = judge.mixture(shares, 1)
    assert [slope.shape for slope in slopes] == [share.shape for share in shares]
    step = 1e-3
    for slot in range(1, 4):
        losses = []
        for sign in (1, -1):
            moved = [share.clone() for share in shares]
            moved[slot][1] += sign * step
            losses.append(judge.mixture(moved, 1)[0])
        numeric = (losses[0] - losses[1]) / (2 * step)
        assert float(slopes[slot][1]) == pytest.approx(numeric, rel=0.1, abs=2e-3)


@pytest.mark.parametrize("method", SEARCHES)
def test_a_budget_that_nothing_meets_is_said_alike(prepared, method):
    impossible = prepared.having(tightening={"flops": 0.1})
    with pytest.raises(InfeasibleBudgetError) as error:
        run_passes(impossible, [plan_search(method, 4, 10)])
    with pytest.raises(InfeasibleBudgetError) as expected:
        run_passes(impossible, [SelectPlans()])
    assert str(error.value) == str(expected.value)
    assert str(error.value).startswith(
        "budget flops=0.5x cannot be met with the margin that measured networks need. flops: the "
        "smallest reachable is "
    )


def test_the_work_is_said(prepared):
    run_passes(prepared, [search("random")])
    said = prepared.instruments.said[-1]
    assert said.startswith("random: 12 evaluations, ") and said.endswith(" s; 4 plans")


def test_an_unknown_search_names_the_nearest():
    with pytest.raises(CommandError) as error:
        check_search("evolutoin")
    assert str(error.value) == (
        "--search 'evolutoin': unknown search method 'evolutoin'. Did you mean 'evolution'? "
        "Known: enas, evolution, random, scip, snas."
    )
