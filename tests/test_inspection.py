"""lanac.inspect() as a library."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lanac
from lanac import inspection
from lanac.errors import DataError
from lanac.instruments import Instruments
from lanac.ir import TEACHER


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(),
        nn.Linear(288, 2),
    )


def test_latencies_add_up_to_the_whole() -> None:
    found = lanac.inspect(network(), example_inputs=torch.randn(2, 3, 8, 8), target="cpu:b4")
    latencies = found.costs.costs["latency_ms"]
    total = sum(latencies[slot.name][TEACHER] for slot in found.program.slots)
    total += found.costs.constants["latency_ms"]
    assert total == pytest.approx(found.costs.teacher["latency_ms"])
    assert (found.name, found.target.batch) == ("Sequential", 4)


def test_data_are_enough_and_two_samples_are_read() -> None:
    read: set[int] = set()

    class Once(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            read.add(index)
            return torch.zeros(3, 8, 8), 0

    found = lanac.inspect(network(), train_data=Once(), latency=False)
    assert len(found.program.slots) == 3
    assert read == {0, 1}


def test_nothing_to_trace_with() -> None:
    with pytest.raises(DataError) as caught:
        lanac.inspect(network())
    assert str(caught.value) == (
        "give example_inputs, such as torch.zeros(2, 3, 224, 224), or train_data"
    )


def test_a_slow_network_is_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, int]] = []

    class Enough(Exception):
        pass

    def run(measuring: inspection.MeasureCosts, _: lanac.Compilation) -> lanac.Compilation:
        used.append((measuring.how.parts.most, measuring.how.networks))
        raise Enough

    monkeypatch.setattr(inspection.MeasureCosts, "run", run)
    for seconds in (0.1, 9.0):
        monkeypatch.setattr(inspection, "_seconds", lambda _, seconds=seconds: seconds)
        with pytest.raises(Enough):
            lanac.inspect(network(), example_inputs=torch.randn(2, 3, 8, 8))
    assert used == [(15, 4), (5, 1)]


def test_what_could_not_be_written_is_said() -> None:
    heard: list[str] = []

    class Hearing(Instruments):
        def warn(self, message: str) -> None:
            heard.append(message)

    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    x = torch.randn(2, 3, 8, 8)
    found = lanac.inspect(model, example_inputs=x, latency=False, instruments=Hearing())
    assert len(found.program.slots) == 3
    assert heard == [
        "cannot write module '0' (torch.nn.modules.conv.Conv2d) as PyTorch source: it has forward "
        "hooks, which would be lost. Replace it by modules of torch.nn, or emit ONNX only "
        "(--emit onnx)."
    ]
