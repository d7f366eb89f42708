"""Teachers of torchvision and timm as PyTorch source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.backends.pytorch import write_source
from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace


def test_torchvision_resnet18(
    rewrite: Callable[..., fx.GraphModule],
    statistics: Callable[[nn.Module], nn.Module],
    reload_in_clean_process: Callable[[fx.GraphModule, Tensor, Path], str],
    tmp_path: Path,
) -> None:
    models = pytest.importorskip("torchvision.models")
    teacher = statistics(models.resnet18(num_classes=10)).eval()
    slots = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    student = rewrite(teacher, slots, {"layer3.1": nn.Identity()})
    text = reload_in_clean_process(student, torch.randn(2, 3, 64, 64), tmp_path)
    assert text.count("(nn.Module)") == 3
    assert "self.layer4_0 = BasicBlock2(in_channels=256, out_channels=512)" in text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_100", marks=pytest.mark.slow),
        pytest.param("tf_efficientnetv2_b0", marks=pytest.mark.slow),
        pytest.param("regnety_002", marks=pytest.mark.slow),
        pytest.param("resnest14d", marks=pytest.mark.slow),
    ],
)
def test_timm(
    name: str,
    rewrite: Callable[..., fx.GraphModule],
    statistics: Callable[[nn.Module], nn.Module],
    reload_in_clean_process: Callable[[fx.GraphModule, Tensor, Path], str],
    tmp_path: Path,
) -> None:
    timm = pytest.importorskip("timm")
    teacher = statistics(timm.create_model(name, num_classes=10, drop_path_rate=0.1)).eval()
    blocks = [
        n for n, _ in teacher.named_modules() if n.startswith("blocks.") and n.count(".") == 2
    ]
    student = rewrite(teacher, blocks, {}, TimmTracer())
    text = reload_in_clean_process(student, torch.randn(4, 3, 67, 67), tmp_path)
    if name == "efficientnet_b0":
        assert text.count("(nn.Module)") == 5
        assert "self.bn1_act = nn.SiLU(inplace=True)" in text
        assert "x = self.bn1_act(self.bn1(x))" in text
        assert "class DropPath(nn.Module):" in text


class TimmTracer(fx.Tracer):
    """Keeps timm's modules whose training flag tracing would bake, as lanac's frontend does."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaves = {"BatchNormAct2d", "DropPath", "Conv2dSame"}
        return type(m).__name__ in leaves or super().is_leaf_module(m, module_qualified_name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("timm:cait_xxs24_224", "drop_prob=0.1"),
        ("timm:mobilevit_xxs", "math.ceil("),
        ("timm:vit_tiny_patch16_dinov3_qkvb", "# From timm.layers.pos_embed_sincos._build_grid"),
        ("timm:vit_tiny_r_s16_p8_224", "torch.ops.aten."),
        ("torchvision:swin_t", "training=self.training)"),
    ],
)
def test_families_through_the_front_end(
    name: str,
    shows: str,
    statistics: Callable[[nn.Module], nn.Module],
    load: Callable[..., nn.Module],
) -> None:
    library, _, model_name = name.partition(":")
    if library == "timm":
        options = {"num_classes": 10, "drop_path_rate": 0.1}
        model = pytest.importorskip("timm").create_model(model_name, **options)
        size = model.pretrained_cfg["input_size"]
    else:
        model = pytest.importorskip("torchvision").models.get_model(model_name, num_classes=10)
        size = (3, 224, 224)
    teacher = statistics(model).eval()
    x = torch.randn(2, *size)
    split = partition(trace(teacher, (x,))).split()
    text, _ = write_source(split, (x,))
    assert shows in text
    emitted = load(split, x)
    with torch.no_grad():
        for batch in (x, torch.randn(3, *size)):
            assert torch.equal(emitted(batch), teacher(batch))
    torch.manual_seed(0)
    expected = teacher.train()(x)
    torch.manual_seed(0)
    assert torch.equal(emitted.train()(x), expected)
