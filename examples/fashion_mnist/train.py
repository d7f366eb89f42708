"""Trains the teacher and writes teacher.safetensors: `python train.py [EPOCHS]`.

Eleven epochs take about half an hour on two quiet cores.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from data import FashionMnist
from network import ResNet
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

WEIGHTS = Path(__file__).parent / "teacher.safetensors"
BATCH = 128


@torch.no_grad()
def top1(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """Share of right answers in percent."""
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    return 100 * hits / len(loader.dataset)  # type: ignore[arg-type]


def main(epochs: int) -> None:
    torch.manual_seed(0)
    train = DataLoader(FashionMnist("train", augment=True), BATCH, shuffle=True, drop_last=True)
    test = DataLoader(FashionMnist("t10k"), 500)
    model = ResNet().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = epochs * len(train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.15, total_steps=steps, pct_start=0.2
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        model.train()
        for images, labels in train:
            loss = criterion(model(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            update_average(average, model)
        # The last epoch's weights are kept, whatever the test images say about earlier ones.
        print(
            f"epoch {epoch + 1}: loss {loss.item():.3f}, "
            f"top-1 {top1(model, test):.2f} %, of the running average {top1(average, test):.2f} %",
            flush=True,
        )
        state = {name: tensor.contiguous() for name, tensor in average.state_dict().items()}
        save_file(state, WEIGHTS)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float = 0.995) -> None:
    """Exponential running average of weights and batch norm statistics."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
