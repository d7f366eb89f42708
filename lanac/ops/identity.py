"""Skipping a slot."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lanac.ir import IDENTITY, OpSpec
from lanac.ops.base import SlotView


class IdentityFamily:
    name = "identity"
    equation = "y = x, where input and output have the same shape"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [IDENTITY] if view.slot.keeps_shape else []

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        return nn.Identity()


FAMILY = IdentityFamily()
