"""The networks of the coverage run: small variants of whatever timm and torchvision offer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TIMM, TEACHER, TORCHVISION, DENSE = "timm", "teacher", "torchvision", "dense"


@dataclass(frozen=True)
class Network:
    """One row of the table.

    Attributes:
        name: what builds it: the name in timm or torchvision, or a key of `DENSE_NETWORKS`.
        group: TIMM (one per architecture module), TEACHER (of the paper, and its relatives),
            TORCHVISION (one classifier per family) or DENSE (segmentation, necks of detectors).
        module: timm's architecture module.
    """

    name: str
    group: str
    module: str = ""

    @property
    def key(self) -> str:
        return f"{self.group}:{self.name}"


@dataclass(frozen=True)
class Expected:
    """Slots that a teacher has: those whose name begins like `pattern` are its blocks."""

    blocks: int
    others: int
    pattern: str = r"blocks\."


SMALL: Mapping[str, str] = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_zepto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mobilenetv2_035",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny_jx",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_dwee_patch16_reg1_gap_256",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""The smallest variant of each module of timm; a module that is not here has its own looked up."""

IMAGE_OPTIONS: Mapping[str, int] = {
    "deepseek_vit_412m": 126,
    "gemma4_vit_167m": 192,
    "qwen3_vit_88m": 256,
    "samvit_base_patch16_224": 224,
}
"""Networks that need `img_size` to be small, and how small."""

SETTLE_BATCH = 4

IMAGE_SIZES: Mapping[str, int] = {"sam2_hiera_tiny": 224, "mobilenetv5_base": 256}
"""Networks whose own image size is large and that take a smaller image as they are."""

TRAINING_SIZES: Mapping[str, int] = {"efficientnet_b4": 224, "efficientnet_b6": 224}
"""Networks that are trained on smaller images than they were made for, to save minutes."""

RESNET = r"layer[1-4]\."
TEACHERS: Mapping[str, Expected] = {
    "efficientnet_b0": Expected(16, 3),
    "efficientnet_b2": Expected(23, 3),
    "efficientnet_b4": Expected(32, 3),
    "efficientnet_b6": Expected(45, 3),
    "tf_efficientnetv2_b3": Expected(32, 3),
    "resnet50": Expected(16, 2, RESNET),
    "resnest50d_1s4x24d": Expected(16, 4, RESNET),
    # The position embedding is added in front of the first block and belongs to its slot.
    "vit_small_patch16_224": Expected(24, 2, r"blocks\.|pos_embed"),
    # Its last "block" is a lone convolution.
    "mobilenetv3_large_100": Expected(15, 3, r"blocks\.[0-5]\."),
    "regnety_008": Expected(14, 2, r"s[1-4]\."),
    "convnext_tiny": Expected(18, 5, r"stages\.\d\.blocks\."),
    "swin_tiny_patch4_window7_224": Expected(24, 5, r"layers\.\d\.blocks\."),
}
"""The paper's teachers and their relatives, with the slots they have (stem and heads: others)."""

CLASSIFIERS = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
)
"""torchvision's classifiers, one per family."""


class DoubleConv(nn.Sequential):
    """Two convolutions with batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for width in (inputs, outputs):
            layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet(nn.Module):
    """Four levels, and long skips between them."""

    def __init__(self, width: int = 16, classes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        pairs = list(itertools.pairwise(widths))
        self.encoder = nn.ModuleList(
            [DoubleConv(a, b) for a, b in zip([3, *widths], widths[:4], strict=False)]
        )
        self.bottom = DoubleConv(widths[3], widths[4])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs)])
        self.decoder = nn.ModuleList([DoubleConv(b, a) for a, b in reversed(pairs)])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encoder in self.encoder:
            x = encoder(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for up, decoder, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = decoder(torch.cat([skip, up(x)], 1))
        return self.head(x)


def _segmenter(name: str) -> nn.Module:
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None)


def _resnet_fpn() -> nn.Module:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)


def _mobilenet_fpn() -> nn.Module:
    from torchvision.models.detection.backbone_utils import mobilenet_backbone

    # A detector trains all of it here: frozen layers would have no gradients to compare.
    return mobilenet_backbone("mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6)


DENSE_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "fcn_resnet50": lambda: _segmenter("fcn_resnet50"),
    "deeplabv3_mobilenet_v3_large": lambda: _segmenter("deeplabv3_mobilenet_v3_large"),
    "lraspp_mobilenet_v3_large": lambda: _segmenter("lraspp_mobilenet_v3_large"),
    "resnet18_fpn": _resnet_fpn,
    "mobilenet_v3_large_fpn": _mobilenet_fpn,
}
LONG_SKIPS = ("unet", "lraspp_mobilenet_v3_large", "resnet18_fpn", "mobilenet_v3_large_fpn")
"""Networks of which nearly all convolution weights shall be in slots all the same."""


def networks() -> list[Network]:
    """All of them, in the order of the tables."""
    import timm

    found = [Network(name, TEACHER) for name in TEACHERS]
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            name = SMALL.get(module)
            found.append(Network(name if name in names else smallest(names), TIMM, module))
    found += [Network(name, TORCHVISION) for name in CLASSIFIERS]
    return found + [Network(name, DENSE) for name in DENSE_NETWORKS]


def smallest(names: Sequence[str]) -> str:
    """The variant with the fewest parameters, counted without allocating them."""
    import timm

    sizes: dict[str, int] = {}
    for name in names:
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except Exception:  # some compute while they are built, which is not for the meta device
            continue
        sizes[name] = sum(value.numel() for value in model.parameters())
    return min(sizes, key=lambda name: sizes[name]) if sizes else names[0]


@dataclass(frozen=True)
class Built:
    """A network that is ready to be traced.

    Attributes:
        model: in eval mode, with weights and statistics that hide nothing.
        image: shape of one sample.
        rates: the options that make it drop activations in training, where it has some.
        training_image: the shape for the checks in training, where it is another one.
    """

    model: nn.Module
    image: tuple[int, int, int]
    rates: Mapping[str, float] = field(default_factory=dict)
    training_image: tuple[int, int, int] | None = None


def build(network: Network) -> Built:
    """Builds a network and gives it weights and statistics that hide no error."""
    torch.manual_seed(0)
    if network.group in (TIMM, TEACHER):
        built = _build_timm(network.name)
    elif network.group == TORCHVISION:
        import torchvision

        size = 299 if network.name == "inception_v3" else 224
        options = {"init_weights": False} if network.name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(network.name, weights=None, **options)
        built = Built(model, (3, size, size))
    else:
        built = Built(DENSE_NETWORKS[network.name](), (3, 224, 224))
    liven(built.model)
    settle(built.model.eval(), torch.randn(SETTLE_BATCH, *(built.training_image or built.image)))
    return built


def _build_timm(name: str) -> Built:
    import timm

    size = IMAGE_OPTIONS.get(name)
    options: dict[str, Any] = {"img_size": size} if size else {}
    tries: list[dict[str, float]] = [
        {"drop_rate": 0.1, "drop_path_rate": 0.1},
        {"drop_path_rate": 0.1},
        {"drop_rate": 0.1},
    ]
    for rates in tries:
        try:
            model = timm.create_model(name, **options, **rates)
            break
        except (TypeError, AssertionError):  # it does not take them
            continue
    else:
        rates, model = {}, timm.create_model(name, **options)
    size = size or IMAGE_SIZES.get(name)
    image = (3, size, size) if size else model.pretrained_cfg["input_size"]
    smaller = TRAINING_SIZES.get(name)
    return Built(model, image, rates, (3, smaller, smaller) if smaller else None)


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> None:
    """Statistics near those of what really flows through the network.

    With any others activations grow from layer to layer until rounding decides the output, and no
    two ways to compute it agree.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        mean, variance = norm.running_mean, norm.running_var
        variance.clamp_(min=0.05 * float(variance.mean()) + 1e-3)  # few samples: some hardly vary
        mean.add_(torch.randn_like(mean) * 0.1 * variance.sqrt())
        variance.mul_(torch.empty_like(variance).uniform_(0.8, 1.25))


@torch.no_grad()
def liven(model: nn.Module) -> None:
    """Statistics that are not 0 and 1, and weights that are not constant.

    A layer scale of 1e-6 and a residual branch that begins with a zero would hide what a wrong
    graph computes.
    """
    for part in model.modules():
        mean, variance = getattr(part, "running_mean", None), getattr(part, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            mean.normal_(0, 0.2)
            variance.uniform_(0.6, 1.4)
    for value in model.parameters():
        constant = value.flatten()[:1]
        if value.numel() and value.is_floating_point() and bool((value == constant).all()):
            if abs(float(constant)) > 0.01:
                value.add_(torch.randn_like(value) * 0.1)
            else:
                value.uniform_(0.1, 0.3)
