"""Images in class folders: the data of networks that come without data of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lanac.errors import DataError

_LAYOUT = "expected DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_WORKERS = 8


class Images(Dataset[Any]):
    """The images of a folder, without their classes."""

    def __init__(self, labelled: Any) -> None:
        self._labelled = labelled

    def __len__(self) -> int:
        return len(self._labelled)

    def __getitem__(self, index: int) -> Any:
        return (self._labelled[index][0],)


def check_image_folder(folder: Path) -> tuple[Path, Path | None, tuple[str, ...]]:
    """Finds out how a folder is laid out, before any image is read.

    Returns:
        Its folder of training images, of validation images (None without a split), and the
        classes in the order of the network's outputs: sorted.

    Raises:
        DataError: it does not exist, has no class folders, one of them has no images, or the
            validation images have other classes than the training images.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise DataError(f"--data {str(folder)!r} {what}; {_LAYOUT}")
    train, val = folder / "train", folder / "val"
    if not train.is_dir():
        if val.is_dir():
            raise DataError(f"--data {str(folder)!r} has a folder val but no train; {_LAYOUT}")
        return folder, None, _classes(folder)
    classes = _classes(train)
    if not val.is_dir():
        return train, None, classes
    others = _classes(val)
    if others != classes:
        only = [f"{name!r} only in train" for name in classes if name not in others]
        only += [f"{name!r} only in val" for name in others if name not in classes]
        raise DataError(
            f"--data {str(folder)!r}: train has {len(classes)} classes, val has {len(others)} "
            f"({', '.join(only[:3])}{', ...' if len(only) > 3 else ''}); expected the same ones"
        )
    return train, val, classes


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if not classes:
        raise DataError(f"--data: {str(folder)!r} has no class folders; {_LAYOUT}")
    for name in classes:
        if not any(path.suffix.lower() in _SUFFIXES for path in (folder / name).rglob("*")):
            raise DataError(
                f"--data: class folder {str(folder / name)!r} has no images; expected at least one "
                f"of {', '.join(_SUFFIXES)}. Remove the folder, or put its images there"
            )
    return classes


def read_image_folder(
    folder: Path, transform: Callable[[Any], Any], labelled: bool
) -> DataLoader[Any]:
    """The images of one folder of class folders, each turned into a tensor (C, H, W).

    Worker processes decode them where the machine has cores to spare.

    Args:
        folder: has one folder per class.
        transform: from a PIL image to a tensor.
        labelled: whether the classes are the targets.
    """
    from torchvision.datasets import ImageFolder

    images = ImageFolder(str(folder), transform=transform)
    spare = min(_WORKERS, (os.cpu_count() or 1) - 1)
    return DataLoader(images if labelled else Images(images), num_workers=spare)
