"""Perturbed tables, and choosing plans by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lanac.frontend.build import build_program
from lanac.ir import IDENTITY, TEACHER, parse_op
from lanac.targets import parse_target
from lanac.targets.predicted import (
    PerturbedTables,
    judge_plans,
    predict_table,
    safety_factor,
)

ERRORS = {"conv3x3": 0.1, "pointwise": 0.1, "batch_norm": 0.1, "own": 0.05}
TARGET = parse_target("v100:tensorrt:fp16:b8")
SMALL = parse_op("cb_res(k=1)")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return x + self.body(x)


@pytest.fixture(scope="module")
def program():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *[Residual() for _ in range(3)], nn.AdaptiveAvgPool2d(1)
    )
    return build_program(net.eval(), (torch.zeros(2, 3, 16, 16),))


@pytest.fixture(scope="module")
def table(program):
    ops = {slot.name: (TEACHER, IDENTITY, SMALL) for slot in program.slots}
    return predict_table(program, ops, lambda slot, op: nn.Conv2d(8, 8, 1).eval(), TARGET)


@pytest.fixture
def blocks(program):
    return [slot.name for slot in program.slots if slot.keeps_shape]


def plan(program, **ops):
    return {slot.name: ops.get(slot.name.replace(".", "_"), TEACHER) for slot in program.slots}


class TestTable:
    def test_the_parts_sum_to_the_teacher(self, table):
        own = sum(ops[TEACHER].latency_ms for ops in table.costs.values())
        assert own + table.constant.latency_ms == pytest.approx(table.teacher.latency_ms)

    def test_identity_costs_nothing(self, table, blocks):
        latencies = table.latencies()
        assert all(latencies[name][IDENTITY] == 0 for name in blocks)
        assert all(0 < latencies[name][SMALL] < latencies[name][TEACHER] for name in blocks)

    def test_equal_ops_are_built_once(self, program):
        built = []

        def module_of(slot, op):
            built.append(op)
            return nn.Conv2d(8, 8, 1).eval()

        ops = {slot.name: (TEACHER, SMALL) for slot in program.slots if slot.keeps_shape}
        ops = {slot.name: ops.get(slot.name, (TEACHER,)) for slot in program.slots}

        def key_of(slot, op):
            return (slot.name, op) if op == TEACHER else op

        predict_table(program, ops, module_of, TARGET, key_of=key_of)
        assert built == [SMALL]

    def test_an_op_that_cannot_be_listed_is_named(self, program, blocks):
        class Deciding(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        ops = {slot.name: (SMALL,) for slot in program.slots}
        found = predict_table(program, ops, lambda slot, op: Deciding(), TARGET)
        assert set(found.failed) >= set(blocks)
        reason = found.failed[blocks[0]][SMALL]
        assert reason.startswith(
            "the kernels of Deciding cannot be listed on inputs f32[N,8,16,16]"
        )


class TestPerturbing:
    def test_the_same_seed_gives_the_same_tables(self, program, table):
        first, second = (PerturbedTables(table, ERRORS, 50, seed=3) for _ in range(2))
        assert np.array_equal(first.totals(plan(program)), second.totals(plan(program)))
        other = PerturbedTables(table, ERRORS, 50, seed=4)
        assert not np.array_equal(first.totals(plan(program)), other.totals(plan(program)))

    def test_they_are_consistent(self, program, table):
        tables = PerturbedTables(table, ERRORS, 50)
        assert tables.totals(plan(program)) == pytest.approx(tables.teacher)
        assert tables.ratios(plan(program)) == pytest.approx(1.0)

    def test_without_errors_they_are_those_of_the_other_fits(self, table):
        tables = PerturbedTables(table, {}, 40)
        members = table.teacher.cost.by_member
        assert len(members) == 16
        assert np.std(members) > 0
        assert tables.teacher == pytest.approx(np.resize(members, 40))

    def test_they_scatter_as_asked(self, program, table):
        tables = PerturbedTables(table, {"own": 0.1}, 4000)
        block = next(iter(table.costs))
        spread = np.std(np.log(tables.cost(block, TEACHER)))
        assert spread == pytest.approx(0.1, rel=0.1)

    def test_equal_kernels_are_wrong_alike(self, table, blocks):
        tables = PerturbedTables(table, ERRORS, 20)
        first, second = (tables.cost(name, SMALL) for name in blocks[:2])
        assert np.array_equal(first, second)

    def test_ratios_scatter_less_than_latencies(self, program, table, blocks):
        tables = PerturbedTables(table, ERRORS, 1000)
        chosen = {**plan(program), blocks[0]: IDENTITY}
        assert np.std(np.log(tables.ratios(chosen))) < np.std(np.log(tables.totals(chosen)))


class TestChoosing:
    def test_a_plan_at_the_budget_meets_it_half_the_time(self, program, table, blocks):
        tables = PerturbedTables(table, ERRORS, 2000)
        chosen = {**plan(program), blocks[0]: SMALL}
        ratio = sum(table.costs[n][op].latency_ms for n, op in chosen.items())
        ratio = (ratio + table.constant.latency_ms) / table.teacher.latency_ms
        (judged,) = judge_plans([chosen], tables, ratio=ratio)
        assert judged.probability == pytest.approx(0.5, abs=0.1)
        assert judged.ratio == pytest.approx(ratio, rel=0.02)
        assert judged.high_ratio > ratio

    def test_a_budget_in_milliseconds(self, program, table):
        tables = PerturbedTables(table, ERRORS, 100)
        (judged,) = judge_plans([plan(program)], tables, limit_ms=10 * table.teacher.latency_ms)
        assert judged.probability == 1.0

    def test_a_tightened_budget_is_safe(self, program, table, blocks):
        tables = PerturbedTables(table, ERRORS, 1000)
        chosen = {**plan(program), blocks[0]: SMALL}
        factor = safety_factor(chosen, tables, 0.9)
        assert 0.8 < factor < 1
        budget = tables.predicted(chosen) / factor
        (judged,) = judge_plans([chosen], tables, ratio=budget)
        assert judged.probability == pytest.approx(0.9, abs=0.02)

    def test_a_plan_that_the_prediction_favours_is_tightened_for_it(self, program, table, blocks):
        """Other fits say that SMALL takes three times as long: the budget is lowered accordingly."""
        small = table.costs[blocks[0]][SMALL]
        favoured = replace(small, by_member=3 * small.by_member)
        costs = {
            name: {**ops, SMALL: favoured} if SMALL in ops else ops
            for name, ops in table.costs.items()
        }
        chosen = {**plan(program), **dict.fromkeys(blocks, SMALL)}
        plain, wary = (
            safety_factor(chosen, PerturbedTables(found, {}), 0.8)
            for found in (table, replace(table, costs=costs))
        )
        assert wary < 0.8 * plain
