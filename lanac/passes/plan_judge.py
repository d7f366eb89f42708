"""The judge of a search: training images, batch norm on current statistics; every answer is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from lanac.compilation import Compilation
from lanac.instruments import Advance
from lanac.ir import OpSpec, Program, Slot
from lanac.passes.assemble import load_op
from lanac.passes.evaluate_plans import Ops, PlanEvaluation, network_key
from lanac.passes.score_candidates import loss_name
from lanac.search import Choices
from lanac.training.batch_norm import current_statistics
from lanac.training.data import Batch, shuffled
from lanac.training.device import on_device
from lanac.workspace import Result, key_of

_JUDGED, _MIXED = "judged plan", "mixture"
_LEAST_SHARE = 1e-3
"""An op with a smaller share of a mixture does not run: what it would add, and teach, is as small."""
_MIXTURE_PART, _LEAST_BATCH = 4, 16
"""A mixture takes the time and the memory of all its ops: its batch is a part of a plan's."""


def cost_clock(device: torch.device) -> Callable[[], float]:
    """What work on a device is timed by, in seconds: CPU time, or wall time beside a GPU."""
    return time.process_time if device.type == "cpu" else time.perf_counter


class PlanJudge:
    """Judges the plans of a compilation by their loss on training images.

    Answers are stored with the seconds that they took. A search that was killed repeats its steps,
    gets the same answers at once, and costs what it would have cost undisturbed.

    Args:
        compilation: with program, pool and weights.
        images: training images that a plan is judged on.
        batch: images per forward pass; a mixture takes a quarter of it.
        advance: gets one step per plan or mixture.

    Attributes:
        images: how many training images there are to judge on.
        asked: plans and mixtures judged.
        seconds: what they took, when they were computed.
        spent: what of it was spent by this object.
    """

    def __init__(
        self, compilation: Compilation, images: int, batch: int, advance: Advance = lambda _: None
    ) -> None:
        self._compilation, self._batch, self._advance = compilation, batch, advance
        self._mixture_batch = min(batch, max(_LEAST_BATCH, batch // _MIXTURE_PART))
        self.images = min(images, len(compilation.task.train))
        self._evaluation: PlanEvaluation | None = None
        self._mixture: _Mixture | None = None
        self.asked, self.seconds, self.spent = 0, 0.0, 0.0

    def losses(self, plans: Sequence[Choices]) -> list[float]:
        """The loss of the network of each plan, given as choices from the pool."""
        slots, pool = self._compilation.need("program").slots, self._compilation.need("pool")
        return self.losses_of(
            [
                tuple(pool[slot.name][op] for slot, op in zip(slots, plan, strict=True))
                for plan in plans
            ]
        )

    def losses_of(self, networks: Sequence[Ops]) -> list[float]:
        """The loss of each network, given as ops; what is not known is computed in one go."""
        keys = {
            ops: key_of(network_key(self._compilation, ops), self.images, self._batch)
            for ops in networks
        }
        workspace = self._compilation.workspace
        stored = {ops: workspace.get(_JUDGED, key) for ops, key in keys.items()}
        new = [ops for ops, result in stored.items() if result is None]
        if new:
            self._evaluation = self._evaluation or PlanEvaluation(
                self._compilation, self._batch, self.images
            )
            with self._timed() as seconds:
                losses = self._evaluation.losses(new, self.images, lambda _: None)
            for ops in new:
                value = {"loss": losses[ops], "seconds": seconds() / len(new)}
                stored[ops] = Result(value)
                workspace.put(_JUDGED, keys[ops], Result(value))
        answers = {ops: result.value for ops, result in stored.items() if result is not None}
        self._note(len(answers), sum(answer["seconds"] for answer in answers.values()))
        return [float(answers[ops]["loss"]) for ops in networks]

    def mixture(self, shares: Sequence[Tensor], step: int) -> tuple[float, list[Tensor]]:
        """The loss with every slot's ops added up by shares, and its derivative by them."""
        key = key_of(self.pool_key, step, self._mixture_batch, list(shares))
        stored = self._compilation.workspace.get(_MIXED, key)
        if stored is None:
            self._mixture = self._mixture or _Mixture(self._compilation)
            with self._timed() as seconds:
                batch = self._training_batch(step)
                loss, slopes = self._mixture.run(shares, batch)
            tensors = {str(place): slope for place, slope in enumerate(slopes)}
            stored = Result({"loss": loss, "seconds": seconds()}, tensors)
            self._compilation.workspace.put(_MIXED, key, stored)
        self._note(1, stored.value["seconds"])
        return float(stored.value["loss"]), [
            stored.tensors[str(place)] for place in range(len(shares))
        ]

    @property
    def pool_key(self) -> str:
        """A hash of all that the ops of the pool compute: for what depends on no single plan."""
        compilation = self._compilation
        pool, weights = compilation.need("pool"), compilation.need("weights")
        sources = []
        for slot in compilation.need("program").slots:
            trained = [weights.get(slot.name, {}).get(op) for op in pool[slot.name]]
            keys = [compilation.families.key(op) for op in pool[slot.name]]
            sources.append((slot.nodes, keys, [t.key if t is not None else "" for t in trained]))
        return key_of(
            dict(compilation.fingerprints), sources, compilation.seed, loss_name(compilation)
        )

    def _training_batch(self, step: int) -> Batch:
        data, seed = self._compilation.task.train, self._compilation.seed
        size = self._mixture_batch
        epoch, place = divmod(step, max(1, len(data) // size))
        indices = shuffled(len(data), size, seed, epoch)[place]
        return next(iter(data.batches([indices], seed + step))).to(self._compilation.device)

    def _note(self, asked: int, seconds: float) -> None:
        self.asked += asked
        self.seconds += seconds
        self._advance(asked)

    @contextmanager
    def _timed(self) -> Iterator[Callable[[], float]]:
        """Times what is inside; the function gives the seconds afterwards."""
        clock = cost_clock(self._compilation.device)
        began, taken = clock(), 0.0
        yield lambda: taken
        taken = clock() - began
        self.spent += taken


class _Mixture:
    """The network whose slots add up all their ops; their weights are shared and stay as they are."""

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation
        program: Program = compilation.need("program")
        pool = compilation.need("pool")
        sums = {slot.name: _Sum(compilation, slot, pool[slot.name]) for slot in program.slots}
        device = compilation.device
        self._network: fx.GraphModule = on_device(program.rewrite(sums), device).eval()
        self._teacher = on_device(program.teacher, device).eval()
        self._sums = [self._network.get_submodule(slot.attribute) for slot in program.slots]

    def run(self, shares: Sequence[Tensor], batch: Batch) -> tuple[float, list[Tensor]]:
        task, device = self._compilation.task, self._compilation.device
        leaves = [share.detach().to(device).requires_grad_() for share in shares]
        for total, leaf in zip(self._sums, leaves, strict=True):
            total.shares = leaf
        reference = None
        if not task.labelled:
            with torch.no_grad():
                reference = self._teacher(*batch.inputs)
        with current_statistics(self._network):
            loss = task.loss(self._network(*batch.inputs), batch, reference)
            slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        found = [
            torch.zeros_like(leaf) if slope is None else slope
            for leaf, slope in zip(leaves, slopes, strict=True)
        ]
        return float(loss.detach()), [slope.cpu() for slope in found]


class _Sum(nn.Module):
    """The ops of a slot, added up by `shares`; those that hardly count do not run."""

    shares: Tensor

    def __init__(self, compilation: Compilation, slot: Slot, ops: Sequence[OpSpec]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(load_op(compilation, slot, op) for op in ops)

    def forward(self, x: Tensor) -> Tensor:
        least = min(_LEAST_SHARE, self.shares.max().item() / 2)
        # Copied: an op that writes into its input must not spoil the next one's.
        terms = [
            share * op(x.clone())
            for op, share in zip(self.ops, self.shares, strict=True)
            if share.item() > least
        ]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]
