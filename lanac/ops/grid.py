"""Families for feature maps whose ops are a grid of options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import product
from typing import ClassVar

from torch import nn

from lanac.ir import OpSpec, OptionValue
from lanac.ops.base import SlotView
from lanac.ops.layers import Residual
from lanac.ops.values import Values


class MapFamily(ABC):
    """Layers from map to map, with a residual where shapes agree and ReLU where the teacher has it.

    Attributes:
        name: of the family.
        equation: the op in one line.
        grid: every option with its values, in the order in which ops name them.
        option_values: what each option takes, on the grid and off it.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    grid: ClassVar[tuple[tuple[str, tuple[OptionValue, ...]], ...]]
    option_values: ClassVar[tuple[tuple[str, Values], ...]]

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        """Every combination of the grid, where a convolution maps the slot's input to its output."""
        if view.stride is None:
            return []
        options = [[(option, value) for value in values] for option, values in self.grid]
        return [OpSpec(self.name, chosen) for chosen in product(*options)]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        body = nn.Sequential(*self.layers(op, view))
        return Residual(body, skip=view.slot.keeps_shape, relu=view.ends_in_relu)

    @abstractmethod
    def layers(self, op: OpSpec, view: SlotView) -> list[nn.Module]:
        """What maps (B, C, H, W) to (B, C', H/stride, W/stride), one after the other."""
