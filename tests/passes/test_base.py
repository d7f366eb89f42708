"""The pipeline checks what each pass declares."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lanac import run_passes
from lanac.passes import ScoreCandidates, SelectPlans


def test_a_pass_before_one_that_it_needs_is_named(start):
    compilation = start("flops=0.6x", "skip")
    with pytest.raises(RuntimeError) as error:
        run_passes(compilation, [SelectPlans(), ScoreCandidates()])
    assert str(error.value) == (
        "pass select_plans needs costs, scores, which no pass before it provides"
    )


@dataclass(frozen=True)
class Lazy:
    name = "forget_costs"
    needs = ("pool",)
    provides = ("costs",)

    def run(self, compilation):
        return compilation


def test_a_pass_that_does_not_give_what_it_declares_is_named(start):
    with pytest.raises(RuntimeError) as error:
        run_passes(start("flops=0.6x", "skip"), [Lazy()])
    assert str(error.value) == "pass forget_costs declares costs and did not give it"


def test_a_pass_leaves_the_compilation_as_it_was(start):
    compilation = start("flops=0.6x", "skip")
    assert compilation.having(costs="new").costs == "new"
    assert compilation.costs is None


def test_an_artifact_that_is_missing_is_named(start):
    with pytest.raises(RuntimeError) as error:
        start("flops=0.6x", "skip").need("scores")
    assert str(error.value) == "this needs 'scores'; run the pass that provides it first"
