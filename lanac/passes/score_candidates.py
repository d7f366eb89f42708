"""Score: the change of the teacher's loss with one op plugged in alone (paper, Eq. 3, a_ij)."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lanac.compilation import Compilation, Dropped
from lanac.ir import TEACHER, OpSpec
from lanac.passes.assemble import load_op
from lanac.training.batch_norm import current_statistics
from lanac.training.data import Batch, in_order
from lanac.training.suffix import SuffixRunner
from lanac.workspace import Result, key_of

Scores = dict[str, dict[OpSpec, float]]


@dataclass(frozen=True)
class ScoreCandidates:
    """Measures every op of the pool on a small labelled set; batch norm on current statistics.

    The teacher runs once per batch; for each op only what comes after its slot runs again.

    Attributes:
        samples: training samples to measure on.
        batch: samples per forward pass; batch norm's current statistics are over this many.
    """

    samples: int = 1024
    batch: int = 128
    name = "score_candidates"
    needs = ("program", "pool", "weights")
    provides = ("scores", "pool")

    def run(self, compilation: Compilation) -> Compilation:
        keys = self._keys(compilation)
        data = compilation.task.train
        chosen = evaluation_indices(len(data), self.samples, compilation.seed)
        batches = [
            [chosen[i] for i in part] for part in in_order(len(chosen), self.batch) if len(part) > 1
        ]
        losses: dict[str, list[float]] = {key: [] for key in keys}
        # A batch whose results are all there is not computed again: a killed run goes on.
        with compilation.instruments.progress("scoring ops", len(batches)) as advance:
            models: _Models | None = None
            for place, indices in enumerate(batches):
                stored = {
                    key: compilation.workspace.get("loss", key_of(key, place)) for key in keys
                }
                if any(result is None for result in stored.values()):
                    models = models or _Models(compilation, keys)
                    batch = next(iter(data.batches([indices], compilation.seed)))
                    values = models.losses(batch.to(compilation.device))
                    for key, value in values.items():
                        compilation.workspace.put("loss", key_of(key, place), Result(value))
                else:
                    values = {key: result.value for key, result in stored.items() if result}
                for key, value in values.items():
                    losses[key].append(value)
                advance(1)
        return self._with_scores(compilation, keys, losses)

    def _keys(self, compilation: Compilation) -> dict[str, tuple[str, OpSpec]]:
        pool, weights = compilation.need("pool"), compilation.need("weights")
        common = key_of(
            "loss", dict(compilation.fingerprints), self.samples, self.batch, compilation.seed,
            loss_name(compilation),
        )  # fmt: skip
        keys = {}
        for slot in compilation.need("program").slots:
            for op in pool[slot.name]:
                trained = weights.get(slot.name, {}).get(op)
                text = compilation.families.key(op)
                source = trained.key if trained is not None else text
                if trained is not None or op.family in ("teacher", "identity"):
                    keys[key_of(common, slot.nodes, text, source)] = (slot.name, op)
        return keys

    def _with_scores(
        self,
        compilation: Compilation,
        keys: Mapping[str, tuple[str, OpSpec]],
        losses: Mapping[str, list[float]],
    ) -> Compilation:
        means = {place: _mean(losses[key]) for key, place in keys.items()}
        scores: Scores = {}
        failed = []
        for (name, op), loss in means.items():
            change = loss - means[name, TEACHER]
            if math.isfinite(change):
                scores.setdefault(name, {})[op] = change
            else:
                reason = f"op {op} of slot {name!r}: the loss with it is {loss}"
                failed.append(Dropped(name, op, reason))
        pool = {
            name: tuple(op for op in ops if op in scores[name])
            for name, ops in compilation.need("pool").items()
        }
        return compilation.dropping(failed).having(scores=scores, pool=pool)


class _Models:
    """Every op to be scored, ready to run."""

    def __init__(self, compilation: Compilation, keys: Mapping[str, tuple[str, OpSpec]]) -> None:
        self._compilation = compilation
        self._runner = SuffixRunner(compilation.need("program"), compilation.device)
        self._ops: dict[str, dict[str, nn.Module]] = {}
        self._teacher_keys = [key for key, (_, op) in keys.items() if op == TEACHER]
        program = compilation.need("program")
        for key, (name, op) in keys.items():
            if op == TEACHER:
                continue
            module = load_op(compilation, program.slot(name), op).to(compilation.device)
            self._ops.setdefault(name, {})[key] = module

    def losses(self, batch: Batch) -> dict[str, float]:
        """The loss of the batch with each op plugged in alone, by key."""
        task = self._compilation.task
        found: dict[str, float] = {}
        modules = [module for ops in self._ops.values() for module in ops.values()]
        with contextlib.ExitStack() as stack, torch.no_grad():
            reference: Any = None
            if not task.labelled:
                reference = self._runner.module(*batch.inputs)
            stack.enter_context(current_statistics(self._runner.module, *modules))
            for slot, run_from_here in self._runner.steps(batch):
                if not found:  # the teacher's own op gives the same network in every slot
                    own = run_from_here(self._runner.module.get_submodule(slot.attribute))
                    loss = float(task.loss(own, batch, reference))
                    found |= dict.fromkeys(self._teacher_keys, loss)
                for key, module in self._ops.get(slot.name, {}).items():
                    outputs = run_from_here(module)
                    found[key] = float(task.loss(outputs, batch, reference))
        return found


def evaluation_indices(count: int, samples: int, seed: int) -> list[int]:
    """Training samples to evaluate on: the same ones for every op and plan of a seed."""
    generator = torch.Generator().manual_seed(seed + 17)
    return torch.randperm(count, generator=generator)[: min(samples, count)].tolist()


def loss_name(compilation: Compilation) -> str:
    """What the loss is, for keys: the source of the user's own where there is one."""
    task = compilation.task
    if task.user_loss is None:
        return "cross entropy" if task.labelled else "distance to the teacher"
    try:
        return inspect.getsource(task.user_loss)
    except (OSError, TypeError):
        return f"{task.user_loss.__module__}.{getattr(task.user_loss, '__qualname__', 'loss')}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
