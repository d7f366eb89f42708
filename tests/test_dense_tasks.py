"""Segmentation and detection through the whole compiler, with the user's own loss and metric.

The images are two rectangles and a disc on noise: a network learns them in a minute.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import StackDataset, TensorDataset

import lanac
from lanac.training.batch_norm import re_estimate
from lanac.training.data import Batch

SIZE, CELL = 64, 4
SETTINGS = lanac.Settings(
    distill_samples=32, score_samples=32, plans=3, evaluate_images=32, finalists=2,
    finalist_steps=2, finetune_epochs=1, batch_size=16, held_out=16,
)  # fmt: skip


def images(count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64), and what is where (N, 64, 64): nothing, two rectangles, a disc."""
    generator = torch.Generator().manual_seed(1)
    pictures = 0.3 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    kinds = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    rows, columns = torch.arange(SIZE)[:, None], torch.arange(SIZE)
    for picture, kind_at in zip(pictures, kinds, strict=True):
        for kind in (1, 2, 3):
            height, width = torch.randint(SIZE // 4, SIZE // 2, (2,), generator=generator).tolist()
            top = int(torch.randint(SIZE - height, (1,), generator=generator))
            left = int(torch.randint(SIZE - width, (1,), generator=generator))
            inside = (rows >= top) & (rows < top + height)
            inside = inside & (columns >= left) & (columns < left + width)
            if kind == 3:
                radius = min(height, width) / 2
                inside = (rows - top - radius) ** 2 + (columns - left - radius) ** 2 < radius**2
            kind_at[inside] = kind
            picture[kind - 1][inside] += 1.5
    return pictures, kinds


def trained(
    model: nn.Module, pictures: Tensor, loss: Callable[[Any, Tensor], Tensor], epochs: int
) -> nn.Module:
    """The model after a few epochs, with statistics of batch norm that are not trivial."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(pictures)).split(20):
            optimizer.zero_grad()
            loss(model(pictures[part]), part).backward()
            optimizer.step()
    re_estimate(model, (Batch((part,)) for part in pictures.split(20)))
    return model


def check_result(result: lanac.Result, limits: dict[str, float], outputs: list[str]) -> None:
    """The budget is met, the files agree, and the report has the user's metric."""
    found = result.student.outputs
    assert found is not None
    for resource, limit in limits.items():
        assert found.costs[resource] <= limit * found.teacher_costs[resource]
    assert found.agreement["pytorch"] <= 1e-6
    assert found.agreement["onnx"] <= 1e-4
    graph = onnx.load(found.folder / "student.onnx").graph
    assert [value.name for value in graph.output] == outputs
    report = json.loads((found.folder / "plan.json").read_text())
    assert report["metric"]["name"] == result.student.task.metric_name
    assert report["metric"]["student"] == found.metric


# Segmentation -----------------------------------------------------------------------------------


def segmentation_loss(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs["out"], targets)


def mean_iou(outputs: Any, targets: Tensor) -> Tensor:
    """Intersection over union in percent, averaged over the kinds."""
    found = outputs["out"].argmax(1)
    shares = []
    for kind in range(4):
        union = ((found == kind) | (targets == kind)).sum()
        shares.append(((found == kind) & (targets == kind)).sum() / union.clamp_min(1))
    return 100 * torch.stack(shares).mean()


@pytest.fixture(scope="module")
def segmenter() -> tuple[nn.Module, TensorDataset]:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        num_classes=4, weights=None, weights_backbone=None
    )
    pictures, kinds = images(120)
    trained(model, pictures, lambda out, part: segmentation_loss(out, kinds[part]), 6)
    return model, TensorDataset(pictures, kinds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "limits"),
    [("flops=0.8x", {"flops": 0.8}), ("0.8x", {})],
    ids=["flops", "latency"],
)
def test_a_segmentation_network(
    segmenter: tuple[nn.Module, TensorDataset],
    tmp_path: Path,
    budget: str,
    limits: dict[str, float],
) -> None:
    model, data = segmenter
    result = lanac.compile(
        model, train_data=data, loss=segmentation_loss, metric=mean_iou, budget=budget,
        pool="skip", out=tmp_path, settings=SETTINGS,
    )  # fmt: skip
    check_result(result, limits, ["out"])
    outputs = result.student.outputs
    assert outputs is not None
    assert outputs.teacher_metric > 70  # all background is 18
    assert outputs.metric > 50


# Detection --------------------------------------------------------------------------------------


class Detector(nn.Module):
    """A dense head on one level of a backbone: where each kind is likely, and its box."""

    def __init__(self, backbone: nn.Module, level: str, width: int) -> None:
        super().__init__()
        self.backbone, self.level = backbone, level
        self.head = nn.Sequential(
            nn.Conv2d(width, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.heat, self.box = nn.Conv2d(32, 3, 1), nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.head(self.backbone(image)[self.level])
        return {"heat": self.heat(features), "box": self.box(features)}


def boxes(kinds: Tensor) -> dict[str, Tensor]:
    """Where the centre of each kind is (N, 3, 16, 16), and its box there (N, 4, 16, 16)."""
    cells = SIZE // CELL
    heat, box = torch.zeros(len(kinds), 3, cells, cells), torch.zeros(len(kinds), 4, cells, cells)
    for place, kind_at in enumerate(kinds):
        for kind in (1, 2, 3):
            points = (kind_at == kind).nonzero()
            if len(points) == 0:  # hidden by another one
                continue
            first, last = points.min(0).values, points.max(0).values
            row, column = ((first + last) // (2 * CELL)).tolist()
            heat[place, kind - 1, row, column] = 1
            box[place, :, row, column] = torch.cat([first, last]) / SIZE
    return {"heat": heat, "box": box}


def detection_loss(outputs: Any, targets: Any) -> Tensor:
    """Cross-entropy over places for each kind; distance of the boxes where there is one."""
    heat, wanted = (value["heat"].flatten(0, 1).flatten(1) for value in (outputs, targets))
    at = targets["heat"].amax(1, keepdim=True)
    distance = ((outputs["box"] - targets["box"]).abs() * at).sum() / at.sum().clamp_min(1)
    return F.cross_entropy(heat, wanted.argmax(1)) + distance / 4


def centres_found(outputs: Any, targets: Any) -> Tensor:
    """Share of the kinds whose likeliest place is at most one cell off, in percent."""
    found, wanted = (value["heat"].flatten(2).argmax(2) for value in (outputs, targets))
    cells = outputs["heat"].shape[3]
    rows, columns = found // cells - wanted // cells, found % cells - wanted % cells
    return 100 * ((rows.abs() <= 1) & (columns.abs() <= 1)).float().mean()


def detector(backbone: nn.Module, width: int, count: int, epochs: int) -> tuple[nn.Module, Any]:
    pictures, kinds = images(count)
    targets = boxes(kinds)
    model = Detector(backbone, "0", width)

    def loss(outputs: Any, part: Tensor) -> Tensor:
        return detection_loss(outputs, {name: value[part] for name, value in targets.items()})

    trained(model, pictures, loss, epochs)
    return model, StackDataset(pictures, StackDataset(**targets))


@pytest.fixture(scope="module")
def fpn_detector() -> Iterator[tuple[nn.Module, Any]]:
    utils = pytest.importorskip("torchvision.models.detection.backbone_utils")
    torch.manual_seed(0)
    backbone = utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    yield detector(backbone, 256, 160, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "limits"),
    [("flops=0.8x", {"flops": 0.8}), ("0.85x+params=0.95x", {"params": 0.95})],
    ids=["flops", "latency"],
)
def test_a_detection_backbone_with_fpn(
    fpn_detector: tuple[nn.Module, Any], tmp_path: Path, budget: str, limits: dict[str, float]
) -> None:
    model, data = fpn_detector
    result = lanac.compile(
        model, train_data=data, loss=detection_loss, metric=centres_found, budget=budget,
        pool="skip", out=tmp_path, settings=SETTINGS,
    )  # fmt: skip
    check_result(result, limits, ["heat", "box"])
    outputs = result.student.outputs
    assert outputs is not None
    assert outputs.teacher_metric > 80  # a place drawn at random is within one cell in 3 %
    assert outputs.metric > 50


class TinyPyramid(nn.Module):
    """Features of two resolutions, the coarse one added to the fine one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 7, CELL, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.block, self.coarse = (
            nn.Sequential(
                nn.Conv2d(16, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
            )
            for stride in (1, 2)
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.stem(image)
        fine = x + self.block(x)
        coarse = self.coarse(fine)
        return {"0": fine + F.interpolate(coarse, size=fine.shape[-2:]), "1": coarse}


def test_a_tiny_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = detector(TinyPyramid(), 16, 48, 2)
    settings = lanac.Settings(
        distill_samples=16, score_samples=16, plans=2, evaluate_images=16, finalists=1,
        finetune_epochs=1, batch_size=16, held_out=8,
    )  # fmt: skip
    result = lanac.compile(
        model, train_data=data, loss=detection_loss, metric=centres_found, budget="flops=0.9x",
        pool="skip", out=tmp_path, settings=settings,
    )  # fmt: skip
    check_result(result, {"flops": 0.9}, ["heat", "box"])
    assert result.student.task.metric_name == "centres_found"
