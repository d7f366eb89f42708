"""An op that learns to imitate its slot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.ir import OpSpec, Slot


@dataclass
class Candidate:
    """An op in training.

    Attributes:
        slot, op: which op of which slot.
        key: of its final result.
        module: in training mode.
        optimizer: its own; no other candidate is touched.
        error: running mean of the relative feature error.
        failure: why it was dropped, None while all is well.
    """

    slot: Slot
    op: OpSpec
    key: str
    module: nn.Module
    optimizer: torch.optim.Optimizer | None
    error: float = math.nan
    failure: str | None = None
    _recent: list[float] = field(default_factory=list)

    def learn(self, features: tuple[Tensor, Tensor], learning_rate: float) -> None:
        """One step towards the teacher's output; drops the candidate where it diverges.

        One without parameters has nothing to learn: only its error is measured, once.
        """
        if self.failure is not None or (self.optimizer is None and not math.isnan(self.error)):
            return
        inputs, wanted = features
        # Relative to the variance: one learning rate then serves all slots.
        loss = F.mse_loss(self.module(inputs), wanted) / wanted.var(correction=0).clamp_min(1e-12)
        value = float(loss.detach())
        if not math.isfinite(value):
            self.failure = f"its loss became {value}"
            return
        self.error = value if math.isnan(self.error) else 0.9 * self.error + 0.1 * value
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
