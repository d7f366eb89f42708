"""What an op family is, and what it sees of a slot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.errors import PoolError
from lanac.ir import OpSpec, Program, Slot, TensorSpec, record_specs
from lanac.ops.channels import Channels
from lanac.ops.layout import features_last
from lanac.ops.reference import Reference
from lanac.registry import Registry

Kind = Literal["map", "tokens", "grid"]
"""Feature maps (B, C, H, W); tokens (B, N, C), as many out as in; feature maps with the channels
last (B, H, W, C), as Swin has them, of one size."""


@dataclass(frozen=True)
class SlotView:
    """What a family sees of a slot.

    Attributes:
        slot: the slot.
        teacher: the slot's own op; shares its weights with the teacher, so copy before changing.
        calibration: inputs of the slot (B, ...) for some training samples; None while the pool is
            enumerated, when only structure counts.
    """

    slot: Slot
    teacher: fx.GraphModule
    calibration: Tensor | None = None

    @classmethod
    def of(cls, program: Program, slot: Slot, calibration: Tensor | None = None) -> SlotView:
        return cls(slot, program.teacher_op(slot), calibration)

    @property
    def input_spec(self) -> TensorSpec:
        return self.slot.input_spec

    @property
    def output_spec(self) -> TensorSpec:
        return self.slot.output_spec

    @cached_property
    def kind(self) -> Kind | None:
        """What the slot maps to its like; None where input and output are not of one kind.

        Rank and shape decide, and of the layers that read the input, whether its features stand in
        the second or in the last dimension. Where no layer tells, (B, X, Y) are tokens and
        (B, X, Y, Z) a map.
        """
        before, after = self.input_spec.shape, self.output_spec.shape
        if len(before) != len(after) or len(before) not in (3, 4):
            return None
        last = features_last(self.teacher)
        if len(before) == 4 and not last:
            return "map"
        if before[1:-1] != after[1:-1] or last is False:
            return None
        return "grid" if len(before) == 4 else "tokens"

    @cached_property
    def ends_in_relu(self) -> bool:
        """Whether the teacher's op ends in ReLU: a candidate then does too, at no cost."""
        last = next(reversed(self.teacher.graph.nodes)).all_input_nodes[0]
        if last.op == "call_module":
            return isinstance(self.teacher.get_submodule(str(last.target)), nn.ReLU)
        return last.target in (F.relu, torch.relu, "relu", "relu_")

    @cached_property
    def inner_specs(self) -> dict[str, TensorSpec]:
        """Specs of the teacher op's inner tensors by node name, found by running it on zeros."""
        # Two samples: one would hide which dimension is the batch where others are one too.
        spec = self.input_spec.with_batch(2)
        parameter = next(self.teacher.parameters(), None)
        device = parameter.device if parameter is not None else torch.device("cpu")
        zeros = torch.zeros(spec.shape, dtype=spec.dtype, device=device)
        return record_specs(self.teacher, (zeros,))[0]

    @cached_property
    def channels(self) -> Channels:
        """The channels of the teacher's op, followed through its graph once for all ops."""
        return Channels.of(self.teacher, self.inner_specs)

    @cached_property
    def reference(self) -> Reference | None:
        """The teacher's op on the calibration samples, run once for all ops; None without samples."""
        if self.calibration is None:
            return None
        return Reference.of(self.teacher, self.calibration)

    @cached_property
    def stride(self) -> int | None:
        """The stride of a convolution that maps input to output; None where there is none.

        A kxk convolution with padding (k-1)/2 maps H to ceil(H / stride). Only a `map` has one.
        """
        before, after = self.input_spec, self.output_spec
        if self.kind != "map":
            return None
        for stride in (1, 2, 4):
            if all(
                -(-b // stride) == a for b, a in zip(before.spatial, after.spatial, strict=True)
            ):
                return stride
        return None


class Family(Protocol):
    """A kind of candidate with options. One file in `lanac/ops` per family.

    Attributes:
        name: what the user writes in `--pool`.
        equation: the op in one line, for documentation; may be left out.
    """

    name: str
    equation: str = ""

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        """The family's ops for a slot; none where it does not fit."""

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        """The op as a module: input_spec in, output_spec out, any batch; traceable by torch.fx.

        Its weights may come from the teacher's op (copied) or from torch's initialisation.
        """


class Counts(NamedTuple):
    """What an op costs on any device.

    Attributes:
        params: trained values.
        flops: floating point operations of one sample in convolutions, matrix products and
            attention; one multiplication with its addition counts as two.
    """

    params: int
    flops: int


@runtime_checkable
class CountedFamily(Protocol):
    """A family that knows what an op costs without building it."""

    def count(self, op: OpSpec, view: SlotView) -> Counts:
        """Params and flops of the op in that slot, by formula."""


FAMILIES: Registry[Family] = Registry("op family", "lanac.ops", "FAMILY", "lanac.ops", PoolError)
