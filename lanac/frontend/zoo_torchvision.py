"""`torchvision:NAME`: the networks of torchvision, classifiers and segmentation."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import nn

from lanac.frontend.zoo import ImageConfig, missing_package, unknown_network


class TorchvisionZoo:
    """Networks by the name that `torchvision.models.list_models()` gives them."""

    prefix = "torchvision"

    def check(self, name: str) -> None:
        models = _models(name)
        if name not in models.list_models():
            raise unknown_network(self, name, models.list_models())

    def has_weights(self, name: str) -> bool:
        return _weights(name) is not None

    def build(self, name: str, trained: bool, classes: int | None = None) -> nn.Module:
        models = _models(name)
        options: dict[str, Any] = {"weights": "DEFAULT" if trained else None}
        takes = inspect.signature(models.get_model_builder(name)).parameters
        if not trained and "weights_backbone" in takes:
            options["weights_backbone"] = None  # would be downloaded otherwise
        if not trained and "init_weights" in takes:
            options["init_weights"] = False  # takes half a minute
        if classes is not None:
            options["num_classes"] = classes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torchvision
            model: nn.Module = models.get_model(name, **options)
        return model

    def images(self, name: str, model: nn.Module) -> ImageConfig | None:
        from torchvision.transforms import CenterCrop, Compose

        weights = _weights(name)
        if weights is None:
            return None
        transform = weights.transforms()
        crop, resize = (getattr(transform, key, None) for key in ("crop_size", "resize_size"))
        if crop is not None and len(crop) == 1:
            return ImageConfig((3, *crop, *crop), transform)
        if crop is None and resize is not None and len(resize) == 1:
            # Segmentation: images keep their proportions, but a batch needs one size.
            side = resize[0]
            return ImageConfig((3, side, side), Compose([transform, CenterCrop(side)]))
        return None  # videos, pairs of images, lists of images of any size


def _weights(name: str) -> Any:
    """The weights that torchvision recommends, None without any."""
    known = _models(name).get_model_weights(name)
    return known.DEFAULT if len(known) else None


def _models(name: str) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise missing_package(f"torchvision:{name}", "torchvision") from error
    return models


ZOO = TorchvisionZoo()
