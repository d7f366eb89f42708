"""Ops that train with more than they need to run, and how they become what runs."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import overload

from torch import fx, nn

from lanac.errors import PoolError


class Foldable(nn.Module, ABC):
    """A part of an op that trains in one form and runs in a cheaper one.

    A family builds its ops with such parts; they are trained, scored and finetuned as they are. What
    is measured, counted, timed and emitted has `fold()` in their place.
    """

    @abstractmethod
    def fold(self) -> nn.Module:
        """A module that computes the same in eval mode; shares nothing that training changes."""


def is_foldable(module: nn.Module) -> bool:
    """Whether the module has parts to be folded."""
    return any(isinstance(part, Foldable) for part in module.modules())


@overload
def folded(module: fx.GraphModule) -> fx.GraphModule: ...
@overload
def folded(module: nn.Module) -> nn.Module: ...
def folded(module: nn.Module) -> nn.Module:
    """A copy of an op or of a whole network, in eval mode, with every foldable part folded.

    Raises:
        PoolError: a part cannot be folded; names it.
    """
    # A container, so that the module itself may be foldable like any part of it.
    root = nn.ModuleList([copy.deepcopy(module).eval()])
    done: dict[nn.Module, nn.Module] = {}  # a part that is used twice stays one part
    _fold_children(root, done)
    return root[0].eval()


def _fold_children(parent: nn.Module, done: dict[nn.Module, nn.Module]) -> None:
    for name, part in parent._modules.items():
        if isinstance(part, Foldable):
            if part not in done:
                done[part] = _fold(part)
            parent._modules[name] = done[part]
        elif part is not None:
            _fold_children(part, done)


def _fold(part: Foldable) -> nn.Module:
    try:
        module = part.fold()
    except Exception as error:  # the family's own code, which may raise anything
        raise PoolError(
            f"{type(part).__name__} cannot be folded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module) or is_foldable(module):
        raise PoolError(
            f"{type(part).__name__}.fold() gives {type(module).__name__}, expected a torch.nn.Module "
            "without foldable parts"
        )
    return module
