"""Fashion-MNIST as tensors: Debian's package first, then torchvision's download."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530


def find_data() -> Path:
    """The folder with the four idx files; downloads them where no package holds them.

    Looks at $FASHION_MNIST, then at Debian's package `dataset-fashion-mnist`, then lets
    torchvision download into `~/.cache/fashion-mnist`.
    """
    for folder in (Path(os.environ.get("FASHION_MNIST", DEBIAN)), DEBIAN):
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    from torchvision.datasets import FashionMNIST

    root = Path.home() / ".cache" / "fashion-mnist"
    FashionMNIST(str(root), train=True, download=True)
    return root / "FashionMNIST" / "raw"


def _read(path: Path, header_bytes: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header_bytes)


def load_split(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) normalised to mean 0 and deviation 1, labels (N,); split: train, t10k."""
    folder = find_data()
    images = _read(folder / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = _read(folder / f"{split}-labels-idx1-ubyte.gz", 8)
    scaled = (torch.from_numpy(images.copy()).float() / 255 - MEAN) / STD
    return scaled, torch.from_numpy(labels.copy()).long()


class FashionMnist(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of image (1, 28, 28) and label; with a `shift`, mirrored and shifted at random."""

    def __init__(self, split: str, *, shift: int = 0) -> None:
        self.images, self.labels = load_split(split)
        self.shift = shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return (augment_image(image, self.shift) if self.shift else image), self.labels[index]


def augment_image(image: Tensor, shift: int) -> Tensor:
    """Mirrors with probability one half, then shifts by up to `shift` pixels each way."""
    if torch.rand(()) < 0.5:
        image = image.flip(-1)
    top, left = torch.randint(0, 2 * shift + 1, (2,)).tolist()
    padded = torch.nn.functional.pad(image, (shift,) * 4, value=-MEAN / STD)
    return padded[:, top : top + 28, left : left + 28]
