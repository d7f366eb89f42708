"""Calls whose constants differ in training, in emitted source."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanac.frontend.tracing import trace

Check = Callable[..., str]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        rate = 0.5 if self.training else 0.0
        y = F.scaled_dot_product_attention(x, x, x, dropout_p=rate)
        return F.rrelu(y, training=self.training) * (2.0 if self.training else 3.0)


def test_constants_depend_on_the_mode(check: Check) -> None:
    traced = trace(Attention(), (torch.randn(2, 3, 4),))
    text = check(traced.module, torch.randn(2, 3, 4))
    assert "dropout_p=0.5 if self.training else 0.0)" in text
    assert "training=self.training)" in text
    assert "* (2.0 if self.training else 3.0)" in text
    assert "Switched" not in text


def test_it_does_in_training_what_the_model_does(load: Callable[..., nn.Module]) -> None:
    model, x = Attention(), torch.randn(2, 3, 4)
    emitted = load(trace(model, (x,)).module).train()
    model.train()
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    assert torch.equal(emitted(x), expected)
