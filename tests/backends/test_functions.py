"""Functions that are not torch's in emitted source."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.backends.pytorch import write_source
from lanac.errors import BackendError

WIDTH = 3
SETTINGS = object()
Check = Callable[..., str]


def padded(size: int, window: int = WIDTH) -> int:
    """How much has to be added."""
    return -size % window


def windows(x: Tensor, scale: float = 2.0, window: int | None = None) -> Tensor:
    """Means over windows, for any size."""
    window: int = WIDTH if window is None else window
    if padded(x.shape[-1], window) > 0:
        x = F.pad(x, (0, padded(x.shape[-1], window)))
    parts = [part.mean(-1) for part in x.split(window, -1)]
    return torch.stack(parts, -1) * scale


def with_settings(x: Tensor) -> Tensor:
    return x if SETTINGS else -x


def within(width: int) -> Callable[[Tensor], Tensor]:
    def shifted(x: Tensor) -> Tensor:
        return x + width

    return shifted


def calls(function: Callable[..., object], **kwargs: object) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"),), kwargs))
    return fx.GraphModule(nn.Module(), graph).eval()


def test_a_function_is_copied_with_what_it_calls(check: Check) -> None:
    text = check(calls(windows, scale=3.0), torch.randn(2, 7), torch.randn(3, 9))
    assert (
        f"""# From {__name__}.padded
def padded(size, window=3):
    return -size % window


# From {__name__}.windows
def windows(x, scale=2.0, window=None):
    window = 3 if window is None else window
    if padded(x.shape[-1], window) > 0:
        x = F.pad(x, (0, padded(x.shape[-1], window)))
    parts = [part.mean(-1) for part in x.split(window, -1)]
    return torch.stack(parts, -1) * scale
"""
        in text
    )
    assert "return windows(x, scale=3.0)" in text


def test_functions_of_math_are_called(check: Check) -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, : math.ceil(x.shape[1] / 2)] * math.sqrt(2)

    text = check(fx.symbolic_trace(Halved()).eval(), torch.randn(2, 5))
    assert "import math\n" in text
    assert "math.ceil(" in text


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (
            with_settings,
            f"{__name__}.with_settings uses SETTINGS: a value of type object has no source text",
        ),
        (
            within(2),
            f"{__name__}.within.<locals>.shifted is not a function of torch, and not a function of "
            "a module",
        ),
        (
            time.sleep,
            "time.sleep is not a function of torch, and not written in Python",
        ),
    ],
)
def test_functions_that_cannot_be_copied_are_named(
    function: Callable[..., object], why: str
) -> None:
    with pytest.raises(BackendError) as caught:
        write_source(calls(function))
    assert f"of the student as PyTorch source: {why}. Put the code into a module" in str(
        caught.value
    )
