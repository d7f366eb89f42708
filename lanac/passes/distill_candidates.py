"""Distill: every candidate learns to imitate its slot, in isolation (paper, Eq. 2)."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lanac.compilation import Compilation, Dropped, TrainedOp
from lanac.errors import PoolError
from lanac.ir import OpSpec, Slot
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.pool import needs_distillation
from lanac.passes.assemble import DISTILLED
from lanac.targets import PARAMS
from lanac.training.candidate import Candidate
from lanac.training.capture import SlotCapture, collect_inputs
from lanac.training.checkpoint import (
    CheckpointClock,
    pack_training,
    unpack_training,
    with_prefix,
    without_prefix,
)
from lanac.training.data import Data, shuffled
from lanac.training.interrupt import interrupt_between_steps
from lanac.training.schedule import cosine
from lanac.workspace import Result, key_of

_TRAINING = "distilling"

Place = tuple[Slot, OpSpec]
"""An op of a slot."""


@dataclass(frozen=True)
class DistillCandidates:
    """All candidates of all slots learn in the same forward passes of the teacher.

    Attributes:
        samples: training samples that each candidate sees.
        batch: samples per step.
        learning_rate: peak of Adam's learning rate; a cosine.
        checkpoint_s: seconds between checkpoints.
        calibration: training samples on which ops that inherit weights are fitted.
        calibration_bytes: what is kept of these samples, all slots together; more only where a slot
            would have fewer than `capture.LEAST_SAMPLES`.
        training_bytes: what the candidates that learn at the same time may take, about; a pool of the
            paper's size is trained in several groups.
    """

    samples: int = 8192
    batch: int = 64
    learning_rate: float = 2e-3
    checkpoint_s: float = 60.0
    calibration: int = 512
    calibration_bytes: int = 1 << 27
    training_bytes: int = 1 << 32
    name = "distill_candidates"
    needs = ("program", "pool")
    provides = ("weights",)

    def run(self, compilation: Compilation) -> Compilation:
        keys = self._keys(compilation)
        results = {key: compilation.workspace.get(DISTILLED, key) for key in keys}
        missing = {key: place for key, place in keys.items() if results[key] is None}
        for group in self._groups(compilation, missing):
            for key, value in self._train(compilation, group).items():
                results[key] = Result(value)
        weights: dict[str, dict[OpSpec, TrainedOp]] = defaultdict(dict)
        failed = []
        for key, (slot, op) in keys.items():
            result = results[key]
            value = result.value if result is not None else {"failure": "it was not trained"}
            if value["failure"] is None:
                weights[slot.name][op] = TrainedOp(key, value["error"])
            else:
                reason = f"op {op} of slot {slot.name!r}: {value['failure']}"
                failed.append(Dropped(slot.name, op, reason))
        return compilation.dropping(failed).having(weights=dict(weights))

    def _keys(self, compilation: Compilation) -> dict[str, Place]:
        pool = compilation.need("pool")
        options = (
            self.samples, self.batch, self.learning_rate, compilation.seed,
            self.calibration, self.calibration_bytes,
        )  # fmt: skip
        common = key_of(dict(compilation.fingerprints), options, str(compilation.device.type))
        return {
            key_of(common, slot.nodes, compilation.families.key(op)): (slot, op)
            for slot in compilation.need("program").slots
            for op in pool[slot.name]
            if needs_distillation(op)
        }

    def _groups(
        self, compilation: Compilation, missing: Mapping[str, Place]
    ) -> Iterator[dict[str, Place]]:
        """Candidates that are trained together, in order: what is stored takes the first away."""
        params = compilation.costs.costs[PARAMS] if compilation.costs is not None else {}
        group: dict[str, Place] = {}
        taken = 0.0
        for key, (slot, op) in missing.items():
            # Weights, gradients, and Adam's two moments.
            needed = 16 * params.get(slot.name, {}).get(op, 0.0)
            if group and taken + needed > self.training_bytes:
                yield group
                group, taken = {}, 0.0
            group[key] = slot, op
            taken += needed
        if group:
            yield group

    def _train(
        self, compilation: Compilation, missing: Mapping[str, Place]
    ) -> dict[str, dict[str, Any]]:
        """Trains candidates together; returns what was stored of each."""
        data, device = compilation.task.train, compilation.device
        clock = CheckpointClock(self.checkpoint_s)
        order = list(training_order(data, self.samples, self.batch, compilation.seed))
        capture = SlotCapture(compilation.need("program"), device)
        together = key_of("with what is fitted", sorted(missing))
        stored = compilation.workspace.get(_TRAINING, together)
        candidates = self._candidates(compilation, missing, capture, fit=stored is None)
        learning = sum(candidate.optimizer is not None for candidate in candidates)
        what = f"distilling {learning} ops"
        if not learning:
            order, what = order[:1], "measuring ops that have nothing to learn"
        start = _restore(stored, candidates) if stored is not None else 0
        if stored is None and clock.is_due():  # what took so long to fit is not fitted again
            began = time.monotonic()
            _save(compilation, together, candidates, 0)
            clock.written(began)
        with (
            interrupt_between_steps() as interrupted,
            compilation.instruments.progress(what, len(order), start) as advance,
        ):
            for step, batch in enumerate(data.batches(order[start:], compilation.seed), start):
                features = capture.run(batch.to(device))
                rate = cosine(step, len(order), self.learning_rate)
                for candidate in candidates:
                    candidate.learn(features[candidate.slot.name], rate)
                advance(1)
                if clock.is_due() or interrupted():
                    began = time.monotonic()
                    _save(compilation, together, candidates, step + 1)
                    clock.written(began)
                if interrupted():
                    raise KeyboardInterrupt
        return _finish(compilation, together, candidates)

    def _candidates(
        self,
        compilation: Compilation,
        missing: Mapping[str, Place],
        capture: SlotCapture,
        *,
        fit: bool,
    ) -> list[Candidate]:
        """Builds the candidates; those that inherit weights are fitted to the calibration samples.

        What is kept of the samples is let go slot by slot. Without `fit` they are built for weights
        that a checkpoint holds.
        """
        inputs: dict[str, Tensor] = {}
        if fit:
            inputs = self._calibrate(compilation, missing, capture)
        by_slot: dict[str, list[tuple[str, Slot, OpSpec]]] = defaultdict(list)
        for key, (slot, op) in missing.items():
            by_slot[slot.name].append((key, slot, op))
        candidates = []
        with compilation.instruments.progress("building ops", len(missing)) as advance:
            for name, places in by_slot.items():
                view = SlotView.of(
                    compilation.need("program"), places[0][1], inputs.pop(name, None)
                )
                for key, slot, op in places:
                    candidates.append(self._candidate(compilation, view, key, slot, op))
                    advance(1)
        return candidates

    def _calibrate(
        self,
        compilation: Compilation,
        missing: Mapping[str, Place],
        capture: SlotCapture,
    ) -> dict[str, Tensor]:
        data = compilation.task.train
        samples = min(self.calibration, len(data))
        order = list(training_order(data, samples, self.batch, compilation.seed))
        batches = (batch.to(compilation.device) for batch in data.batches(order, compilation.seed))
        slots = list(dict.fromkeys(slot.name for slot, _ in missing.values()))
        # One share for each slot of the program, so that the company of an op changes nothing.
        share = self.calibration_bytes // len(compilation.need("program").slots)
        return collect_inputs(capture, batches, slots, share)

    def _candidate(
        self, compilation: Compilation, view: SlotView, key: str, slot: Slot, op: OpSpec
    ) -> Candidate:
        try:
            module = build_op(op, view, compilation.seed, compilation.families)
        except PoolError as error:
            return Candidate(slot, op, key, nn.Identity(), None, failure=str(error))
        module = module.to(compilation.device).train()
        values = [value for value in module.parameters() if value.requires_grad]
        optimizer = torch.optim.Adam(values, lr=self.learning_rate) if values else None
        return Candidate(slot, op, key, module, optimizer)


def training_order(data: Data, samples: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Index lists of as many epochs as `samples` takes; at least one batch."""
    wanted = max(1, math.ceil(samples / batch))
    epoch = 0
    while wanted > 0:
        lists = shuffled(len(data), batch, seed, epoch)[:wanted]
        yield from lists
        wanted -= len(lists)
        epoch += 1


def _save(
    compilation: Compilation, together: str, candidates: Sequence[Candidate], step: int
) -> None:
    tensors: dict[str, Tensor] = {}
    for candidate in candidates:
        if candidate.failure is None:
            packed = pack_training(candidate.module, candidate.optimizer)
            tensors |= with_prefix(packed, f"{candidate.key}/")
    value = {
        "step": step,
        "errors": {candidate.key: candidate.error for candidate in candidates},
        "failures": {candidate.key: candidate.failure for candidate in candidates},
    }
    compilation.workspace.replace_checkpoint(_TRAINING, together, Result(value, tensors))


def _restore(stored: Result, candidates: Sequence[Candidate]) -> int:
    """Takes up a checkpoint; returns the step to go on with."""
    for candidate in candidates:
        candidate.error = stored.value["errors"][candidate.key]
        candidate.failure = stored.value["failures"][candidate.key]
        if candidate.failure is None:
            own = without_prefix(stored.tensors, f"{candidate.key}/")
            unpack_training(own, candidate.module, candidate.optimizer)
    return int(stored.value["step"])


def _finish(
    compilation: Compilation, together: str, candidates: Sequence[Candidate]
) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        value: dict[str, Any] = {"error": candidate.error, "failure": candidate.failure}
        tensors = {} if candidate.failure is not None else candidate.module.state_dict()
        compilation.workspace.put(DISTILLED, candidate.key, Result(value, tensors))
        values[candidate.key] = value
    compilation.workspace.discard(_TRAINING, together)
    return values
