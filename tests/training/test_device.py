from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.errors import TrainingError
from lanac.training.device import cpu_threads, on_device, pick_device


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_the_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device("auto").type == ("cuda" if there else "cpu")
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "--device cuda: PyTorch sees no GPU here; use --device cpu"),
        ("tpu", "--device 'tpu': expected auto, cpu or cuda"),
    ],
)
def test_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError) as caught:
        pick_device(name)
    assert str(caught.value) == message


def test_torch_has_as_many_threads_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with pytest.raises(KeyboardInterrupt), cpu_threads(before + 2):
            assert torch.get_num_threads() == before + 2
            raise KeyboardInterrupt
        assert torch.get_num_threads() == before + 1
        with cpu_threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [0, -2])
def test_at_least_one_thread(count: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(TrainingError) as caught, cpu_threads(count):
        pass
    assert str(caught.value) == f"--threads {count}: expected at least 1"
    assert torch.get_num_threads() == before


def test_the_teachers_weights_stay_put() -> None:
    module = nn.Linear(2, 2)
    assert on_device(module, torch.device("cpu")) is module
    moved = on_device(module, torch.device("meta"))
    assert moved.weight.is_meta
    assert not module.weight.is_meta
