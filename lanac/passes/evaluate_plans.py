"""Evaluate: the loss of whole plans, before finetuning (paper, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lanac.compilation import Compilation, Finalist
from lanac.errors import TrainingError
from lanac.ir import OpSpec, Plan
from lanac.passes.assemble import assemble_student
from lanac.passes.score_candidates import evaluation_indices, loss_name
from lanac.training.batch_norm import current_statistics
from lanac.training.data import Batch, in_order
from lanac.training.device import on_device
from lanac.workspace import Result, key_of


@dataclass(frozen=True)
class EvaluatePlans:
    """Measures the plans on training images, batch norm on current statistics.

    Successive halving: all plans see the first images, the better half of them twice as many, and
    so on, until the best ones have seen `images`.

    Attributes:
        images: how many training images the last ones see (the paper: 6,000).
        first_images: how many all plans see.
        batch: images per forward pass.
        finalists: how many plans are kept.
    """

    images: int = 6000
    first_images: int = 512
    batch: int = 128
    finalists: int = 3
    name = "evaluate_plans"
    needs = ("program", "plans", "weights")
    provides = ("finalists",)

    def run(self, compilation: Compilation) -> Compilation:
        plans: Sequence[Plan] = compilation.need("plans")
        rounds = self._rounds(len(compilation.task.train), len(plans))
        losses: dict[tuple[OpSpec, ...], float] = {}
        alive: list[Plan] = list(plans)
        total = sum(keep for keep, _ in rounds)
        with compilation.instruments.progress("evaluating plans", total) as advance:
            for keep, images in rounds:
                alive = alive[:keep]
                for plan in alive:
                    losses[plan.ops] = self._loss(compilation, plan, images)
                    advance(1)
                alive.sort(key=lambda plan: losses[plan.ops])
        images = rounds[-1][1]
        teacher_loss = self._loss(compilation, None, images)
        finite = [plan for plan in alive if math.isfinite(losses[plan.ops])][: self.finalists]
        if not finite:
            raise TrainingError(
                "the loss of every plan is infinite or not a number; give a larger budget, "
                "or more distillation (--distill-samples)"
            )
        return compilation.having(
            finalists=tuple(
                Finalist(plan, losses[plan.ops], teacher_loss, images) for plan in finite
            )
        )

    def _rounds(self, available: int, plans: int) -> list[tuple[int, int]]:
        """(plans, images) of each round."""
        most = min(self.images, available)
        keep, images = plans, min(self.first_images, most)
        rounds = [(keep, images)]
        while images < most and keep > self.finalists:
            keep, images = max(self.finalists, math.ceil(keep / 2)), min(2 * images, most)
            rounds.append((keep, images))
        if images < most:
            rounds.append((keep, most))
        return rounds

    def _loss(self, compilation: Compilation, plan: Plan | None, images: int) -> float:
        """Mean loss over the first `images`; what was computed before is not computed again."""
        data, device = compilation.task.train, compilation.device
        chosen = evaluation_indices(len(data), images, compilation.seed)
        parts = [part for part in in_order(len(chosen), self.batch) if len(part) > 1]
        key = key_of(network_key(compilation, plan), self.batch)
        module: nn.Module | None = None
        total = 0.0
        for place, part in enumerate(parts):
            stored = compilation.workspace.get("plan loss", key_of(key, place, len(part)))
            if stored is None:
                module = module or on_device(_network(compilation, plan), device)
                batch = next(iter(data.batches([[chosen[i] for i in part]], compilation.seed)))
                value = batch_loss(compilation, module, batch.to(device))
                stored = Result(value)
                compilation.workspace.put("plan loss", key_of(key, place, len(part)), stored)
            total += float(stored.value) * len(part)
        return total / sum(map(len, parts))


@torch.no_grad()
def batch_loss(compilation: Compilation, module: nn.Module, batch: Batch) -> float:
    """Loss of a network on one batch, batch norm on current statistics."""
    task, teacher = compilation.task, compilation.need("program").teacher
    reference = None if task.labelled else on_device(teacher, compilation.device)(*batch.inputs)
    with current_statistics(module):
        return float(task.loss(module(*batch.inputs), batch, reference))


def _network(compilation: Compilation, plan: Plan | None) -> nn.Module:
    program = compilation.need("program")
    if plan is None:
        module: nn.Module = program.split()
        return module
    return assemble_student(compilation, plan.ops)


def network_key(compilation: Compilation, plan: Plan | None) -> str:
    """Everything that a whole network's loss depends on; None is the teacher."""
    weights = compilation.need("weights")
    ops = []
    for place, slot in enumerate(compilation.need("program").slots):
        op = plan.ops[place] if plan is not None else None
        trained = weights.get(slot.name, {}).get(op)
        ops.append((str(op), trained.key if trained is not None else ""))
    return key_of(dict(compilation.fingerprints), ops, compilation.seed, loss_name(compilation))
