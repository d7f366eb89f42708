"""A model file for tests: five residual blocks that learned four kinds of 12x12 images.

The teacher is trained on the first call (a second) and kept beside this file where the folder can
be written; tests copy the file to a folder of their own.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset

WEIGHTS = Path(__file__).parent / "teacher.safetensors"


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(16, 16, 1), Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1)
        )
        self.classifier = nn.Linear(32, 4)

    def forward(self, x):
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


def images(count, seed):
    """Four smooth patterns under noise, (count, 1, 12, 12), and which of them it is."""
    patterns = F.interpolate(torch.randn(4, 1, 4, 4, generator=_generator(0)), 12, mode="bilinear")
    generator = _generator(seed)
    labels = torch.randint(4, (count,), generator=generator)
    noise = torch.randn(count, 1, 12, 12, generator=generator)
    return patterns[labels] + 1.2 * noise, labels


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _trained():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = TinyNet()
        inputs, labels = images(600, 1)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(3):
            for part in torch.randperm(600).split(50):
                optimizer.zero_grad()
                F.cross_entropy(network(inputs[part]), labels[part]).backward()
                optimizer.step()
    return network


def model():
    if not WEIGHTS.exists():
        save_file(_trained().state_dict(), WEIGHTS)
    network = TinyNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network


def train_data():
    return TensorDataset(*images(600, 1))


def val_data():
    return TensorDataset(*images(200, 2))
