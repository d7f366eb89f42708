"""Slots of well known networks: residual blocks, as their papers count them, and the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lanac.frontend.build import build_program
from lanac.ir import Program

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

BLOCKS: dict[str, tuple[int, int]] = {
    "efficientnet_b0": (16, 3),
    "efficientnet_b2": (23, 3),
    "efficientnet_b4": (32, 3),
    "efficientnet_b6": (45, 3),
    "tf_efficientnetv2_b3": (32, 3),
    "mobilenetv3_large_100": (15, 3),
    "resnet18": (8, 2),
    "resnet50": (16, 2),
    "resnest50d_1s4x24d": (16, 4),
    "regnety_008": (14, 2),
    "convnext_tiny": (18, 5),
    "vit_small_patch16_224": (24, 2),
    "swin_tiny_patch4_window7_224": (24, 5),
}
"""Blocks, and stem, heads and layers between stages."""

SIZES = {"vit_small_patch16_224": 224, "swin_tiny_patch4_window7_224": 224}
QUICK = ("resnet18", "mobilenetv3_large_100")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BLOCKS],
)
def test_slots_of_classifiers(name: str) -> None:
    model = timm.create_model(name, pretrained=False)
    size = SIZES.get(name, 64)
    program = build_program(model, (torch.randn(1, 3, size, size),))
    assert len(program.slots) == sum(BLOCKS[name])


def share_of_convolutions(program: Program, model: nn.Module) -> float:
    inside = {
        id(value)
        for slot in program.slots
        for value in program.teacher_op(slot).parameters()
        if value.dim() == 4
    }
    weights = [value for value in model.parameters() if value.dim() == 4]
    return sum(v.numel() for v in weights if id(v) in inside) / sum(v.numel() for v in weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("fcn_resnet50", 16 + 3), ("deeplabv3_mobilenet_v3_large", 15 + 6)]
)
def test_slots_of_segmenters(name: str, count: int) -> None:
    make: Any = getattr(torchvision.models.segmentation, name)
    program = build_program(
        make(weights=None, weights_backbone=None, aux_loss=False), (torch.randn(2, 3, 64, 64),)
    )
    assert len(program.slots) == count


@pytest.mark.slow
def test_long_skips_leave_the_convolutions_in_slots() -> None:
    lraspp = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    fpn = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet50", weights=None
    )
    for model in (lraspp, fpn):
        program = build_program(model, (torch.randn(2, 3, 64, 64),))
        assert share_of_convolutions(program, model) >= 0.9
