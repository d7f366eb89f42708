from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.backends import onnx as newer
from lanac.backends.onnxruntime import export_for_timing, session, timed_run


@pytest.fixture
def older_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the older exporter cannot do is an error: the newer one takes sixty times as long."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the newer exporter was asked")

    monkeypatch.setattr(newer, "export_model", refuse)


class Resize(nn.Module):
    """Of the second input only the shape is used."""

    def forward(self, small: Tensor, like: Tensor, more: Tensor) -> dict[str, Any]:
        large = F.interpolate(small, size=like.shape[-2:])
        return {"large": large, "more": [more * 2, (large + more.mean(), None)]}


@pytest.mark.usefixtures("older_only")
def test_nested_outputs_and_inputs_that_give_only_a_shape_are_timed() -> None:
    inputs = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 7, 5), torch.zeros(1, 4)
    model = export_for_timing(fx.symbolic_trace(Resize()), inputs)
    running = session(model, threads=1)
    assert [entry.shape for entry in running.get_inputs()] == [[1, 2, 3, 3], [1, 4]]
    assert [entry.shape for entry in running.get_outputs()] == [
        [1, 2, 7, 5], [1, 4], [1, 2, 7, 5],
    ]  # fmt: skip
    timed_run(model, inputs, threads=1)()


def test_inputs_of_an_emitted_network_are_bound_in_their_order() -> None:
    class Named(nn.Module):
        def forward(self, timed_input_1: Tensor, b: Tensor) -> Tensor:
            return timed_input_1.mean() + b

    inputs = torch.zeros(2, 3), torch.zeros(2, 4)
    model = newer.export_model(fx.symbolic_trace(Named()).eval(), inputs)
    timed_run(model.SerializeToString(), inputs, threads=1)()
