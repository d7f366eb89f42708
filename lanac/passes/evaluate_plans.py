"""Evaluate: the loss of whole plans, before finetuning (paper, section 2.2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lanac.compilation import Compilation, Finalist
from lanac.errors import TrainingError
from lanac.ir import TEACHER, OpSpec, Plan
from lanac.passes.assemble import load_op
from lanac.passes.score_candidates import evaluation_indices, loss_name
from lanac.training.batch_norm import current_statistics
from lanac.training.data import Batch, in_order
from lanac.training.prefixes import PrefixRunner
from lanac.workspace import Result, key_of

Ops = tuple[OpSpec, ...]


@dataclass(frozen=True)
class EvaluatePlans:
    """Measures the plans on training images, batch norm on current statistics.

    Successive halving: all plans see the first images, the better half of them twice as many, and
    so on, until the best ones have seen `images`. The images of a batch are loaded once for all
    plans, what plans have in common at the front runs once per batch, and what is known of a plan
    from before is not computed again.

    Attributes:
        images: how many training images the last ones see (the paper: 6,000).
        first_images: how many all plans see.
        batch: images per forward pass.
        finalists: how many plans are kept.
    """

    images: int = 6000
    first_images: int = 256
    batch: int = 128
    finalists: int = 3
    name = "evaluate_plans"
    needs = ("program", "plans", "weights")
    provides = ("finalists",)

    def run(self, compilation: Compilation) -> Compilation:
        plans: Sequence[Plan] = compilation.need("plans")
        teacher = (TEACHER,) * len(plans[0].ops)
        rounds = self.rounds(len(compilation.task.train), len(plans))
        evaluation = PlanEvaluation(compilation, self.batch, rounds[-1][1])
        alive = list(plans)
        losses: dict[Ops, float] = {}
        steps = evaluation.batches(rounds[0][1]) * (len(plans) + 1)
        steps += sum(
            (keep + 1) * (evaluation.batches(images) - evaluation.batches(before))
            for (_, before), (keep, images) in itertools.pairwise(rounds)
        )
        with compilation.instruments.progress("evaluating plans", steps) as advance:
            for keep, images in rounds:
                alive = alive[:keep]
                networks = [teacher, *(plan.ops for plan in alive)]
                losses = evaluation.losses(networks, images, advance)
                # A loss that is no number comes last: it has no place in an order.
                alive.sort(key=lambda plan: _last_unless_finite(losses[plan.ops]))
        finite = [plan for plan in alive if math.isfinite(losses[plan.ops])][: self.finalists]
        if not finite:
            raise TrainingError(
                "the loss of every plan is infinite or not a number; give a larger budget, "
                "or more distillation (--distill-samples)"
            )
        return compilation.having(
            finalists=tuple(
                Finalist(plan, losses[plan.ops], losses[teacher], rounds[-1][1]) for plan in finite
            )
        )

    def rounds(self, available: int, plans: int) -> list[tuple[int, int]]:
        """(plans, images) of each round; the last one has at least `finalists` plans."""
        most = min(self.images, available)
        keep, images = plans, min(self.first_images, most)
        result = [(keep, images)]
        while images < most:
            keep, images = (
                max(min(plans, self.finalists), math.ceil(keep / 2)),
                min(2 * images, most),
            )
            if keep <= self.finalists:
                images = most
            result.append((keep, images))
        return result


def _last_unless_finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


class PlanEvaluation:
    """Losses of networks put together from ops, batch by batch; stored as they come.

    On each batch what the networks have in common at the front runs once.

    Args:
        compilation: with program and weights.
        batch: images per forward pass.
        images: how many images will be asked for at most.
    """

    def __init__(self, compilation: Compilation, batch: int, images: int) -> None:
        self._compilation, self._size = compilation, batch
        data = compilation.task.train
        self._indices = evaluation_indices(len(data), images, compilation.seed)
        self._ops: dict[tuple[str, OpSpec], nn.Module] = {}
        self._known: dict[tuple[Ops, int, int], float] = {}
        self._runner = PrefixRunner(compilation.need("program"), compilation.device)

    def batches(self, images: int) -> int:
        """How many forward passes one network takes for that many images."""
        return len(self._parts(images))

    def _parts(self, images: int) -> list[list[int]]:
        # One sample alone has no batch statistics.
        return [part for part in in_order(images, self._size) if len(part) > 1]

    def losses(
        self, networks: Sequence[Ops], images: int, advance: Callable[[int], None]
    ) -> dict[Ops, float]:
        """Mean loss of each network over the first `images` images.

        `advance` gets one step per network and batch that this object had not seen before.
        """
        keys = {ops: network_key(self._compilation, ops) for ops in networks}
        parts = self._parts(images)
        for place, part in enumerate(parts):
            missing: dict[Ops, str] = {}
            for ops in keys:
                if (ops, place, len(part)) in self._known:
                    continue
                key = key_of(keys[ops], self._size, place, len(part))
                stored = self._compilation.workspace.get("plan loss", key)
                if stored is None:
                    missing[ops] = key
                    continue
                self._known[ops, place, len(part)] = float(stored.value)
                advance(1)
            if not missing:
                continue
            for ops, loss in self._measured(list(missing), self._load(part)):
                self._compilation.workspace.put("plan loss", missing[ops], Result(loss))
                self._known[ops, place, len(part)] = loss
                advance(1)
        sizes = [len(part) for part in parts]
        means = {}
        for ops in networks:
            losses = [self._known[ops, place, size] for place, size in enumerate(sizes)]
            weighted = sum(loss * size for loss, size in zip(losses, sizes, strict=True))
            means[ops] = weighted / sum(sizes)
        return means

    def _load(self, part: Sequence[int]) -> Batch:
        data = self._compilation.task.train
        indices = [self._indices[place] for place in part]
        batch = next(iter(data.batches([indices], self._compilation.seed)))
        return batch.to(self._compilation.device)

    def _measured(self, networks: Sequence[Ops], batch: Batch) -> Iterator[tuple[Ops, float]]:
        """The loss of each network on a batch, as it comes."""
        task, runner = self._compilation.task, self._runner
        modules = [self._modules(ops) for ops in networks]
        used = {module for network in modules for module in network}
        with torch.no_grad():
            reference = None if task.labelled else runner.module(*batch.inputs)
            with current_statistics(runner.module, *used):
                for places, outputs in runner.outputs(batch, modules):
                    loss = float(task.loss(outputs, batch, reference))
                    yield from ((networks[place], loss) for place in places)

    def _modules(self, ops: Ops) -> tuple[nn.Module, ...]:
        """The ops of a network as modules; each is loaded once and shared by all networks."""
        compilation = self._compilation
        slots = compilation.need("program").slots
        modules = []
        for slot, own, op in zip(slots, self._runner.own, ops, strict=True):
            if op == TEACHER:
                modules.append(own)
                continue
            if (slot.name, op) not in self._ops:
                module = load_op(compilation, slot, op).to(compilation.device)
                self._ops[slot.name, op] = module
            modules.append(self._ops[slot.name, op])
        return tuple(modules)


def network_key(compilation: Compilation, ops: Ops) -> str:
    """Everything that a whole network's loss depends on."""
    weights = compilation.need("weights")
    sources = []
    for slot, op in zip(compilation.need("program").slots, ops, strict=True):
        trained = weights.get(slot.name, {}).get(op)
        # The nodes too: another granularity has other slots behind the same plan.
        key = compilation.families.key(op)
        sources.append((slot.nodes, key, trained.key if trained is not None else ""))
    return key_of(dict(compilation.fingerprints), sources, compilation.seed, loss_name(compilation))
