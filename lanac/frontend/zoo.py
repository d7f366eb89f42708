"""Networks by name: built by the package that knows them, with trained weights and image folders."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lanac.errors import DataError, SourceError, first_line
from lanac.frontend.image_folder import check_image_folder, read_image_folder
from lanac.frontend.source import Source

_CONVERT = """python -c "import torch; from safetensors.torch import save_file; \
save_file(torch.load({path!r}, map_location='cpu', weights_only=True), {new!r})\""""


_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""With it torch.load refuses code whatever its caller asks for."""


@dataclass(frozen=True)
class ImageConfig:
    """What images a network was trained on.

    Attributes:
        size: (C, H, W).
        transform: from a PIL image to a normalised tensor (C, H, W).
    """

    size: tuple[int, ...]
    transform: Callable[[Any], Any]


class Zoo(Protocol):
    """A package that builds networks by name; `lanac.frontend.zoo_*` are the known ones."""

    @property
    def prefix(self) -> str:
        """What stands before the colon: `timm`."""

    def check(self, name: str) -> None:
        """Raises SourceError for a name that the package does not know."""

    def has_weights(self, name: str) -> bool:
        """Whether the package has trained weights for this name."""

    def build(self, name: str, trained: bool, classes: int | None = None) -> nn.Module:
        """The network; `trained` weights are downloaded where they are not in the package's cache.

        Args:
            name: checked before.
            trained: random weights otherwise.
            classes: number of outputs; None for the package's own default.
        """

    def images(self, name: str, model: nn.Module) -> ImageConfig | None:
        """What images the network was trained on; None where the package does not say."""


def load_to_compile(zoo: Zoo, name: str, weights: Path | None, data: Path | None) -> Source:
    """The trained network with the images of a folder.

    Whatever can be refused is refused before anything is downloaded.

    Raises:
        SourceError: the name is unknown, or the trained weights cannot be loaded.
        DataError: the folder cannot be used, or has other classes than the network.
    """
    shown = f"{zoo.prefix}:{name}"
    zoo.check(name)
    if data is None:
        raise SourceError(
            f"{shown} needs images to learn from: --data DIR, with DIR/train/CLASS/*.jpg and "
            "DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg. For data of another kind write a model.py"
        )
    train, val, classes = check_image_folder(data)
    model = load_trained(zoo, name, weights)
    config = zoo.images(name, model)
    if config is None:
        raise SourceError(
            f"{shown} does not say what images it takes; write a model.py with model() and "
            "train_data() for it"
        )
    labelled = _check_classes(shown, model, config, train, classes)
    return Source(
        name=name,
        model=model,
        train_data=read_image_folder(train, config.transform, labelled),
        val_data=None if val is None else read_image_folder(val, config.transform, labelled),
    )


def load_to_inspect(
    zoo: Zoo, name: str, weights: Path | None, trained: bool, size: tuple[int, ...] | None
) -> Source:
    """The network with a random example input; trained weights only where they are asked for.

    Args:
        zoo: where it comes from.
        name: of the network.
        weights: a safetensors file.
        trained: load the package's trained weights.
        size: of its input without the batch; None for what the package says.

    Raises:
        SourceError: the name is unknown, weights cannot be loaded, or no size is known.
    """
    zoo.check(name)
    if trained or weights is not None:
        model = load_trained(zoo, name, weights)
    else:
        model = zoo.build(name, trained=False)
    if size is None:
        config = zoo.images(name, model)
        if config is None:
            raise SourceError(
                f"{zoo.prefix}:{name} does not say what input it takes; give it: "
                "--input-size CxHxW, such as 3x224x224"
            )
        size = config.size
    return Source(name, model, example_inputs=random_input(size))


def random_input(size: tuple[int, ...]) -> Tensor:
    """Two samples of this size, normally distributed, the same ones every time."""
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def load_trained(zoo: Zoo, name: str, weights: Path | None) -> nn.Module:
    """The network with trained weights: the package's own, or those of a safetensors file.

    Raises:
        SourceError: there are none, they cannot be loaded, or they do not fit.
    """
    shown = f"{zoo.prefix}:{name}"
    if weights is not None:
        return _with_weights(zoo, name, weights)
    if not zoo.has_weights(name):
        raise SourceError(
            f"{zoo.prefix} has no trained weights for {name!r}, and lanac accelerates trained "
            f"networks. Give your own: {shown}@FILE.safetensors"
        )
    try:
        with _no_code_in_weights():
            return zoo.build(name, trained=True)
    except Exception as error:  # of the network, of a hub's client, of the file system
        raise SourceError(
            f"the trained weights of {shown} cannot be loaded: {type(error).__name__}: "
            f"{first_line(error)}. Check the network; without one give them as a file: "
            f"{shown}@FILE.safetensors"
        ) from error


@contextmanager
def _no_code_in_weights() -> Iterator[None]:
    """Has torch read nothing but tensors from the files that a package downloads.

    torchvision's are pickles, and it asks for them with `weights_only=False`.
    """
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


def _with_weights(zoo: Zoo, name: str, path: Path) -> nn.Module:
    state = read_weights(path)
    model = zoo.build(name, trained=False)
    classes = _number_of_classes(model.state_dict(), state)
    if classes is not None:
        model = zoo.build(name, trained=False, classes=classes)
    expected = model.state_dict()
    missing = [key for key in expected if key not in state and "num_batches_tracked" not in key]
    unknown = [key for key in state if key not in expected]
    misfits = [
        f"{key}: {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unknown", unknown), ("misshapen", misfits))
        if found
    ]
    if problems:
        raise SourceError(
            f"the weights {str(path)!r} do not fit {zoo.prefix}:{name}: {'; '.join(problems)}. "
            "Is it another network? For one that was changed write a model.py"
        )
    model.load_state_dict(state, strict=False)
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        SourceError: it does not exist, is damaged, or is of another kind, such as a pickle.
    """
    if not path.is_file():
        raise SourceError(f"weights {str(path)!r} do not exist; expected a safetensors file")
    if path.suffix != ".safetensors":
        command = _CONVERT.format(path=str(path), new=str(path.with_suffix(".safetensors")))
        raise SourceError(
            f"weights {str(path)!r} are no safetensors file. Other checkpoints are pickles, which "
            f"can execute code when they are loaded; lanac loads none. Convert it once:\n\n"
            f"    {command}\n\n"
            "(where the file holds more than the weights, save only those: its 'state_dict' or "
            "'model')"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SourceError(
            f"weights {str(path)!r} cannot be read: {first_line(error)}; the file may be damaged "
            "or not be a safetensors file"
        ) from error


def _number_of_classes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> int | None:
    """How many classes a checkpoint is for, where it differs from the network in that alone."""
    pairs = {
        (len(own[key]), len(value))
        for key, value in given.items()
        if key in own and own[key].dim() and value.dim() and own[key].shape != value.shape
        if own[key].shape[1:] == value.shape[1:]
    }
    return next(iter(pairs))[1] if len(pairs) == 1 else None


@torch.no_grad()
def _check_classes(
    shown: str, model: nn.Module, config: ImageConfig, folder: Path, classes: tuple[str, ...]
) -> bool:
    """Whether the classes are the network's outputs: not so for segmentation, whose images are
    used without labels.

    Raises:
        DataError: it is a classifier of another number of classes.
    """
    outputs = model.eval()(torch.zeros(1, *config.size))
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        return False
    if outputs.shape[1] == len(classes):
        return True
    names = f"{', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}"
    raise DataError(
        f"--data: {str(folder)!r} has {len(classes)} class folders ({names}), {shown} has "
        f"{outputs.shape[1]} outputs; expected one folder per output, in the order of the outputs "
        "when sorted by name. For a network trained on your own classes give its weights: "
        f"{shown.partition('@')[0]}@FILE.safetensors"
    )


def unknown_network(zoo: Zoo, name: str, known: Iterable[str]) -> SourceError:
    """The error for an unknown name, with the nearest known ones; there are too many to list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(f'{zoo.prefix}:{n}' for n in near)}?" if near else ""
    return SourceError(f"{zoo.prefix} has no network {name!r}.{hint} It has {len(names)} others.")


def missing_package(shown: str, package: str) -> SourceError:
    """The error where the package is not installed."""
    return SourceError(f'{shown} needs the package {package}: pip install "lanac[zoo]"')
