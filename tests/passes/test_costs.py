"""Costs of ops, what is measured of them and how often, and what they keep from being trained."""

from __future__ import annotations

import pytest

from lanac import run_passes
from lanac.errors import BudgetError, InfeasibleBudgetError
from lanac.ir import IDENTITY, TEACHER, OpSpec
from lanac.passes import MeasureCosts, PrunePool, latency
from lanac.passes.check_budgets import CheckBudgets
from lanac.targets import parse_budgets
from lanac.targets.timing import Timing

COSTS = MeasureCosts(rounds=3, networks=2)


@pytest.fixture
def timed(monkeypatch):
    """Counts what is timed; times are faked: 1 ms, 2 ms and so on in the order of the runs."""
    counts = []

    def fake(runs, *, threads, rounds, progress):
        counts.append(len(runs) - 1)  # beside the whole teacher
        for finished in range(1, rounds + 1):
            progress(finished)
        times = [50.0, *(1.0 + place for place in range(len(runs) - 1))]
        return [Timing(time, time, time, rounds) for time in times]

    monkeypatch.setattr(latency, "time_interleaved", fake)
    return counts


def test_parts_of_the_teacher_sum_up_to_the_teacher(start):
    """By construction: what is measured in parts is scaled to what is measured as a whole."""
    compilation = run_passes(start("0.6x", "slim(w=0.5)"), [MeasureCosts(rounds=3)])
    slots, costs = compilation.program.slots, compilation.costs
    for resource in ("latency_ms", "params", "flops"):
        total = costs.total(resource, slots, [TEACHER] * len(slots))
        assert total == pytest.approx(costs.teacher[resource], rel=1e-9)
    assert costs.how == {
        "params": "counted", "flops": "counted", "memory_bytes": "counted",
        "latency_ms": "measured",
    }  # fmt: skip


def test_equal_blocks_are_measured_once(start, timed):
    """Blocks 0 and 1 are equal, and blocks 3 and 4; identity is never measured."""
    compilation = run_passes(start("0.6x", "identity,slim(w=0.5)"), [COSTS])
    assert timed == [len({*_distinct(compilation)}), 2]
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
    assert len(timed) == 2  # parts, then whole networks
    assert first.costs == second.costs
    run_passes(start("0.3x", "identity,slim(w=0.5),slim(w=0.25)"), [COSTS])
    # slim(w=0.25) of the wider blocks; of the narrow ones both keep eight channels, its least.
    assert timed[2] == 2


def test_another_target_is_measured_anew(start, timed):
    run_passes(start("0.6x", "skip"), [COSTS])
    run_passes(start("0.6x", "skip", target="cpu:b8"), [COSTS])
    assert len(timed) == 4


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
