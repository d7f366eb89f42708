"""Plans under restrictions: fixed ops, slots that stay, few changes."""

from __future__ import annotations

import pytest

from lanac import run_passes
from lanac.errors import InfeasibleBudgetError, PoolError, SelectionError
from lanac.ir import IDENTITY, TEACHER, parse_op
from lanac.passes import MeasureCosts, PrunePool, SelectPlans

WIDE = parse_op("efn(e=6,k=5,se=0.04)")


def selected(start, budget, pool="identity,slim", plans=4, **restrictions):
    """Plans with made-up scores: what costs less scores worse."""
    compilation = run_passes(start(budget, pool, **restrictions), [MeasureCosts(), PrunePool()])
    flops = compilation.costs.costs["flops"]
    scores = {
        name: {op: 1e-6 * (flops[name][TEACHER] - flops[name][op]) for op in ops}
        for name, ops in compilation.pool.items()
    }
    return run_passes(compilation.having(scores=scores), [SelectPlans(plans=plans)])


def choices(compilation):
    names = [slot.name for slot in compilation.program.slots]
    return [dict(zip(names, plan.ops, strict=True)) for plan in compilation.plans]


def test_a_fixed_op_is_in_every_plan_whatever_it_costs(start):
    compilation = selected(start, "flops=0.9x", fix=["blocks.0=efn(k=5,e=6,se=0.04)"])
    assert len(compilation.plans) == 4
    assert all(plan["blocks.0"] == WIDE for plan in choices(compilation))
    assert compilation.pool["blocks.0"] == (TEACHER, WIDE)
    assert compilation.restrictions.fixed == {"blocks.0": WIDE}


def test_kept_slots_stay_and_nothing_is_prepared_for_them(start):
    compilation = selected(start, "flops=0.8x", keep=["blocks.[01]"])
    for name in ("blocks.0", "blocks.1"):
        assert compilation.pool[name] == (TEACHER,)
        assert all(plan[name] == TEACHER for plan in choices(compilation))
    assert len(compilation.plans) == 4  # what cannot differ does not count as alike


@pytest.mark.parametrize("most", [1, 2])
def test_few_slots_change(start, most):
    compilation = selected(start, "flops=0.9x", plans=1, max_changed=most)
    (plan,) = choices(compilation)
    assert 1 <= sum(op != TEACHER for op in plan.values()) <= most


def test_too_few_changes_for_the_budget(start):
    with pytest.raises(InfeasibleBudgetError) as caught:
        selected(start, "flops=0.5x", max_changed=1)
    assert str(caught.value) == (
        "budget flops=0.5x cannot be met with --max-changed 1. flops, changed slots: not "
        "reachable together. Give a larger budget, or a larger pool (--pool)."
    )


def test_an_op_that_does_not_fit(start):
    with pytest.raises(PoolError) as caught:
        start("flops=0.9x", "skip", fix=["stem=identity"])
    assert str(caught.value).startswith(
        "--fix stem=identity: identity does not fit this slot, f32["
    )


def test_an_op_that_was_dropped(start):
    compilation = run_passes(
        start("flops=0.9x", "skip", fix=["blocks.0=identity"]), [MeasureCosts()]
    )
    pool = {**compilation.pool, "blocks.0": (TEACHER,)}
    scores = {name: dict.fromkeys(ops, 0.0) for name, ops in pool.items()}
    with pytest.raises(SelectionError) as caught:
        run_passes(compilation.having(pool=pool, scores=scores), [SelectPlans()])
    assert str(caught.value) == (
        f"--fix blocks.0={IDENTITY}: this op failed and was dropped, as said above; fix another"
    )
