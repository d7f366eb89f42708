"""The slot's own op, as it was trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from lanac.ir import TEACHER, OpSpec
from lanac.ops.base import SlotView


class TeacherFamily:
    name = "teacher"
    equation = "y = t(x), with the trained weights"

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        return [TEACHER]

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        return copy.deepcopy(view.teacher)


FAMILY = TeacherFamily()
