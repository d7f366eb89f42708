from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanac.errors import TraceError
from lanac.frontend.expectation import Expectation, run_model

SMALL, LARGE = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 256, 128)


class Recording(nn.Module):
    """Notes the shapes that it is run with."""

    def __init__(self, function: Callable[..., Any] = torch.neg) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        RUNS.append(tuple(x.shape))
        return self.function(x)


RUNS: list[tuple[int, ...]] = []


def runs_of(work: Callable[[], object]) -> list[tuple[int, ...]]:
    RUNS.clear()
    work()
    return list(RUNS)


def test_another_batch_size_is_run_on_small_images() -> None:
    assert runs_of(lambda: Expectation(Recording(), (SMALL,))) == [(2, 3, 8, 8), (1, 3, 8, 8)]
    large = runs_of(lambda: Expectation(Recording(), (LARGE,)))
    assert large == [(2, 3, 256, 128), (1, 3, 128, 64)]
    one = runs_of(lambda: Expectation(Recording(), (LARGE[:1, :, :, :96],)))
    assert one == [(1, 3, 256, 96), (2, 3, 256, 96)]  # half of 96 would be too small


def test_several_inputs_are_not_cropped() -> None:
    expected = Expectation(Two(), (LARGE, LARGE))
    assert runs_of(lambda: expected.check(Two())) == [tuple(LARGE.shape), (1, 3, 256, 128)]


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        RUNS.append(tuple(x.shape))
        return x + y


def one_size_only(x: Tensor) -> Tensor:
    if x.shape[2:] != (256, 128):
        raise ValueError("another size")
    return -x


def test_a_network_of_one_size_is_run_on_whole_images() -> None:
    runs = runs_of(lambda: Expectation(Recording(one_size_only), (LARGE,)))
    assert runs == [(2, 3, 256, 128), (1, 3, 128, 64), (1, 3, 256, 128)]


def test_a_graph_of_one_size_is_compared_on_whole_images() -> None:
    expected = Expectation(Recording(), (LARGE,))
    runs = runs_of(lambda: expected.check(Recording(one_size_only)))
    #                 graph: example       crop           model: whole      graph: whole
    assert runs == [(2, 3, 256, 128), (1, 3, 128, 64), (1, 3, 256, 128), (1, 3, 256, 128)]


def other_on_one_sample(x: Tensor) -> Tensor:
    return -x if len(x) > 1 else x


@pytest.mark.parametrize("images", [SMALL, LARGE], ids=["small", "large"])
def test_what_differs_for_another_batch_size_is_refused(images: Tensor) -> None:
    with pytest.raises(TraceError) as caught:
        Expectation(Recording(), (images,)).check(Recording(other_on_one_sample))
    assert str(caught.value) == (
        "the traced graph does not compute what the model computes on another batch size (output "
        "has other values). A condition on the batch size is the usual reason; take it out."
    )


def test_what_differs_on_the_example_is_refused() -> None:
    with pytest.raises(TraceError) as caught:
        Expectation(Recording(), (SMALL,)).check(Recording(torch.abs))
    assert str(caught.value).startswith(
        "the traced graph does not compute what the model computes on its example input (output "
        "has other values). A condition on types (isinstance(x, Tensor)), a context such as "
    )


def test_a_graph_that_fails_says_how() -> None:
    with pytest.raises(TraceError, match=r"\(it fails: ValueError: another size\)"):
        Expectation(Recording(), (SMALL,)).check(Recording(one_size_only))


def test_rounding_where_it_is_allowed() -> None:
    expected = Expectation(Recording(torch.sin), (SMALL,))
    nearly = Recording(lambda x: torch.sin(x) + 1e-7)
    expected.check(nearly, is_exact=False)
    with pytest.raises(TraceError, match="has other values"):
        expected.check(nearly)


def test_a_batch_that_cannot_vary() -> None:
    fixed = Recording(lambda x: x.reshape(2, -1) if len(x) == 2 else 1 / 0)
    expected = Expectation(fixed, (SMALL,))
    assert not expected.takes_other_batches
    expected.check(fixed)


def test_a_crop_leaves_no_trace_in_the_model() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size: tuple[int, ...] = ()

        def forward(self, x: Tensor) -> Tensor:
            self.size = tuple(x.shape)
            return -x

    model = Caching()
    Expectation(model, (LARGE,)).check(model)
    assert model.size == tuple(LARGE.shape)


def test_inputs_that_the_model_refuses() -> None:
    with pytest.raises(TraceError) as caught:
        run_model(nn.Linear(3, 2), (torch.zeros(2, 4),), "the first samples,", "val_data()")
    assert str(caught.value) == (
        "the model fails on the first samples, of shape (2, 4): RuntimeError: mat1 and mat2 shapes "
        "cannot be multiplied (2x4 and 3x2). Check that val_data() gives what model() expects."
    )
