"""Trains the teacher and writes teacher.safetensors: `python train.py`.

Two phases of a falling learning rate, the second one gentler; together about an hour on two quiet
cores. `python train.py 2` does the second one alone, from the weights that are there.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from data import FashionMnist
from network import ResNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

WEIGHTS = Path(__file__).parent / "teacher.safetensors"
BATCH = 128


@dataclass(frozen=True)
class Phase:
    """One run of a learning rate that rises for a fifth of its steps and then falls to zero."""

    epochs: int
    learning_rate: float
    label_smoothing: float
    shift: int


PHASES = (Phase(11, 0.15, 0.05, shift=2), Phase(6, 0.06, 0.0, shift=1))


@torch.no_grad()
def top1(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """Share of right answers in percent."""
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    return 100 * hits / len(loader.dataset)  # type: ignore[arg-type]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float = 0.995) -> None:
    """Exponential running average of weights and batch norm statistics."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def train_phase(phase: Phase) -> None:
    """Trains from the weights in the file, if any; writes the running average back.

    The last epoch is kept, whatever the test images say about earlier ones.
    """
    torch.manual_seed(0)
    train = DataLoader(
        FashionMnist("train", shift=phase.shift), BATCH, shuffle=True, drop_last=True
    )
    test = DataLoader(FashionMnist("t10k"), 500)
    model = ResNet().to(memory_format=torch.channels_last)
    if WEIGHTS.exists():
        model.load_state_dict(load_file(WEIGHTS))
    average = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, phase.learning_rate, total_steps=phase.epochs * len(train), pct_start=0.2
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=phase.label_smoothing)
    for epoch in range(phase.epochs):
        model.train()
        for images, labels in train:
            loss = criterion(model(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            update_average(average, model)
        print(
            f"epoch {epoch + 1} of {phase.epochs}: loss {loss.item():.3f}, "
            f"top-1 {top1(model, test):.2f} %, of the running average {top1(average, test):.2f} %",
            flush=True,
        )
    state = {name: tensor.contiguous() for name, tensor in average.state_dict().items()}
    save_file(state, WEIGHTS)


def main(first: int) -> None:
    if first == 1:
        WEIGHTS.unlink(missing_ok=True)
    for phase in PHASES[first - 1 :]:
        train_phase(phase)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
