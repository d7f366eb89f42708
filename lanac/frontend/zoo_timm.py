"""`timm:NAME`: the networks of PyTorch Image Models. The only file that imports timm."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from lanac.errors import SourceError
from lanac.frontend.zoo import ImageConfig, missing_package, unknown_network


class TimmZoo:
    """Networks by their timm name, with or without a tag: `resnet18`, `resnet18.a1_in1k`."""

    prefix = "timm"

    def check(self, name: str) -> None:
        timm = _timm(name)
        if not timm.is_model(name):
            raise unknown_network(self, name, timm.list_models())
        base, _, tag = name.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        if tag and tag not in tags:
            known = f"known: {', '.join(tags)}" if tags else "it has no weights"
            raise SourceError(f"timm:{base} has no weights with the tag {tag!r}; {known}")

    def has_weights(self, name: str) -> bool:
        return bool(_timm(name).is_model_pretrained(name))

    def build(self, name: str, trained: bool, classes: int | None = None) -> nn.Module:
        options = {} if classes is None else {"num_classes": classes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # renamed networks, layers without an optional kernel
            model: nn.Module = _timm(name).create_model(name, pretrained=trained, **options)
        return model

    def images(self, name: str, model: nn.Module) -> ImageConfig:
        from timm.data import create_transform, resolve_model_data_config

        config = resolve_model_data_config(model)
        return ImageConfig(
            tuple(config["input_size"]), create_transform(**config, is_training=False)
        )


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_package(f"timm:{name}", "timm") from error
    return timm


ZOO = TimmZoo()
