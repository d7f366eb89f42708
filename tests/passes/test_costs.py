"""Costs of ops, what is measured of them and how often, and what they keep from being trained."""

from __future__ import annotations

from typing import ClassVar

import pytest

from lanac import run_passes
from lanac.backends import isolation
from lanac.errors import BudgetError, InfeasibleBudgetError
from lanac.ir import IDENTITY, TEACHER, OpSpec
from lanac.passes import MeasureCosts, PrunePool
from lanac.passes.check_budgets import CheckBudgets
from lanac.passes.latency import Thoroughness
from lanac.targets import Effort, parse_budgets

QUICK = Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))
COSTS = MeasureCosts(QUICK)


class FakeBench:
    """Opens nothing; networks take 1 ms, 2 ms and so on in the order of opening, the teacher 50."""

    opened: ClassVar[list[str]] = []

    def __init__(self, runtime, target):
        pass

    def open(self, name, files, specs):
        if name == "teacher":
            return lambda repeats: 50.0
        self.opened.append(name)
        time = float(len(self.opened))
        return lambda repeats: time

    def close(self, names):
        pass

    def quit(self):
        pass


@pytest.fixture
def timed(monkeypatch):
    """What is opened to be timed: `KEY SESSION`."""
    monkeypatch.setattr(FakeBench, "opened", [])
    monkeypatch.setattr(isolation, "new_bench", FakeBench)
    return FakeBench.opened


def opened_once(timed):
    """Parts are opened once, whole networks three times."""
    keys = [name.split()[0] for name in timed]
    return [key for key in keys if keys.count(key) == 1]


def test_parts_of_the_teacher_sum_up_to_the_teacher(start):
    """By construction: what is measured in parts is scaled to what is measured as a whole."""
    compilation = run_passes(start("0.6x", "slim(w=0.5)"), [COSTS])
    slots, costs = compilation.program.slots, compilation.costs
    for resource in ("latency_ms", "params", "flops"):
        total = costs.total(resource, slots, [TEACHER] * len(slots))
        assert total == pytest.approx(costs.teacher[resource], rel=1e-9)
    assert costs.how == {
        "params": "counted", "flops": "counted", "memory_bytes": "counted",
        "size_bytes": "counted", "latency_ms": "measured",
    }  # fmt: skip


def test_equal_blocks_are_measured_once(start, timed):
    """Blocks 0 and 1 are equal, and blocks 3 and 4; identity is never measured."""
    compilation = run_passes(start("0.6x", "identity,slim(w=0.5)"), [COSTS])
    assert len(opened_once(timed)) == len({*_distinct(compilation)})
    table = compilation.costs.costs["latency_ms"]
    assert table["blocks.0"] == table["blocks.1"]
    assert table["blocks.3"] == table["blocks.4"]
    assert table["blocks.0"][IDENTITY] == 0


def _distinct(compilation):
    equal = {"blocks.1": "blocks.0", "blocks.4": "blocks.3"}
    for slot, ops in compilation.pool.items():
        for op in ops:
            if op != IDENTITY:
                yield equal.get(slot, slot), op
    yield "a call of the runtime"
    if compilation.program.outside() is not None:
        yield "what lies outside the slots"


def test_nothing_is_measured_twice(start, timed):
    first = run_passes(start("0.6x", "identity,slim(w=0.5)"), [COSTS])
    second = run_passes(start("0.3x", "identity,slim(w=0.5)"), [COSTS])
    count = len(timed)
    assert first.costs == second.costs
    again = run_passes(start("0.6x", "identity,slim(w=0.5)"), [COSTS])
    assert (len(timed), again.costs) == (count, first.costs)
    run_passes(start("0.3x", "identity,slim(w=0.5),slim(w=0.25)"), [COSTS])
    # slim(w=0.25) of the wider blocks; of the narrow ones both keep eight channels, its least.
    assert len(opened_once(timed[count:])) == 2


def test_another_target_is_measured_anew(start, timed):
    run_passes(start("0.6x", "skip"), [COSTS])
    run_passes(start("0.6x", "skip", target="cpu:b8"), [COSTS])
    assert len(opened_once(timed)) == 2 * 6  # stem, blocks 0, 2 and 3, classifier, a call


def test_latency_is_not_measured_where_nothing_limits_it(start, timed):
    compilation = run_passes(start("flops=0.6x", "skip"), [COSTS])
    assert timed == []
    assert "latency_ms" not in compilation.costs.costs


def test_ops_that_are_not_cheaper_are_pruned(start):
    wide = "cb_bottle(k=7,w=4)"
    compilation = run_passes(start("flops=0.6x", f"identity,{wide}"), [COSTS, PrunePool()])
    assert all(ops[0] == TEACHER for ops in compilation.pool.values())
    assert {op.family for ops in compilation.pool.values() for op in ops} == {"teacher", "identity"}
    assert compilation.instruments.said[-1].endswith("not cheaper than what they would replace")


def test_an_op_stays_where_it_is_cheaper_in_one_limited_resource(start):
    """A wide depthwise block has more params than flops to spare."""
    op = OpSpec.of("efn", e=3, k=3, se=0)
    one = run_passes(start("flops=0.6x", str(op)), [COSTS, PrunePool()])
    kept = {slot for slot, ops in one.pool.items() if op in ops}
    for slot in one.program.slots:
        if op in one.costs.costs["flops"][slot.name]:
            costs = one.costs.costs["flops"][slot.name]
            assert (slot.name in kept) == (costs[op] < costs[TEACHER])


class TestBudgets:
    def check(self, compilation, budget):
        budgets = parse_budgets(budget)
        run_passes(compilation, [COSTS, PrunePool(), CheckBudgets(budgets)])

    def test_smallest_reachable_budget_is_named_and_can_be_reached(self, start):
        compilation = start("flops=0.1x", "skip")
        with pytest.raises(InfeasibleBudgetError) as error:
            self.check(compilation, "flops=0.1x")
        assert str(error.value) == (
            "budget flops=0.1x cannot be met. flops: the smallest reachable is 1.07 MFLOP "
            "(0.168x), the limit is 638.23 kFLOP (0.100x). Give a larger budget, or a larger pool "
            "(--pool)."
        )
        self.check(compilation, "flops=0.169x")

    def test_only_the_limits_that_bind_are_named(self, start):
        with pytest.raises(InfeasibleBudgetError) as error:
            self.check(start("flops=0.1x", "skip"), "flops=0.1x+params=0.9x")
        assert "params: " not in str(error.value)

    def test_limits_that_cannot_be_met_together(self, start):
        """Memory forbids ops, and those that it leaves are too dear."""
        with pytest.raises(InfeasibleBudgetError) as error:
            self.check(start("flops=0.1x", "skip"), "flops=0.1x+memory=0.1x")
        assert "memory: the smallest reachable is" in str(error.value)

    def test_a_limit_above_the_teacher(self, start):
        with pytest.raises(BudgetError) as error:
            self.check(start("flops=0.1x", "skip"), "flops=1G")
        assert str(error.value) == (
            "budget 'flops=1G': the teacher already costs only 6.38 MFLOP; give a limit below that"
        )
