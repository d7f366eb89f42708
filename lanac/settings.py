"""How much work goes into a student. Loads no torch: the command's help shows these defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How much work goes into a student; the command line has an option for each.

    Attributes:
        distill_samples: training samples that every candidate learns from.
        score_samples: training samples that every op is scored on.
        plans: diverse plans per budget (the paper's K).
        search: how plans are found: scip, or a method that is there for comparison.
        search_evaluations: plans that such a method may judge; its gradient steps.
        evaluate_images: training samples that the best plans are compared on.
        finalists: plans that are timed as whole networks.
        finalist_steps: steps of a short finetuning of the finalists within the budget, before one is
            chosen; 0 to choose by the loss without it.
        refine: rounds of looking for better plans around the best one, at most.
        finetune_epochs: epochs of finetuning.
        learning_rate: peak learning rate of finetuning.
        batch_size: samples per step of finetuning; other passes derive theirs from it.
        held_out: training samples kept from training, for decisions; at most a tenth.
    """

    distill_samples: int = 8192
    score_samples: int = 1024
    plans: int = 16
    search: str = "scip"
    search_evaluations: int = 200
    evaluate_images: int = 6000
    finalists: int = 3
    finalist_steps: int = 32
    refine: int = 1
    finetune_epochs: int = 5
    learning_rate: float = 5e-4
    batch_size: int = 128
    held_out: int = 2048


@dataclass(frozen=True)
class ComparisonSettings:
    """How much work goes into a comparison, beside `Settings`.

    Attributes:
        search_images: training samples that a plan is judged on.
        finetune_samples: training samples that every plan is finetuned on, the same ones for all.
        random_plans: plans drawn for the ranking, over all its budgets.
        ranking_plans: plans that SCIP finds at each budget of the ranking (the paper's K).
        pool_sizes: ops per slot of the smaller pools.
        repeats: pools drawn of each size.
    """

    search_images: int = 256
    finetune_samples: int = 8192
    random_plans: int = 300
    ranking_plans: int = 100
    pool_sizes: tuple[int, ...] = (2, 5, 10)
    repeats: int = 5
