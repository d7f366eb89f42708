from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace
from lanac.ops import SlotView
from lanac.ops.layout import features_last

MakeView = Callable[..., SlotView]


class Then(nn.Module):
    """A function and a module behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor], module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(self.function(x))
        return y


class LayerNorm2d(nn.LayerNorm):
    """Layer norm of (B, C, H, W), as timm and torchvision have it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Leaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LayerNorm2d) or super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(module, Leaves().trace(module))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 4, 1),
        nn.Sequential(nn.BatchNorm2d(4)),
        nn.Sequential(nn.ReLU(), nn.GroupNorm(2, 4), nn.Linear(4, 4)),
        nn.Conv1d(4, 4, 1),
        Then(lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)), nn.Linear(4, 4)),
        nn.Sequential(LayerNorm2d(4), nn.Conv2d(4, 4, 1)),
        Then(lambda x: x * x.mean((2, 3), keepdim=True), nn.Conv2d(4, 4, 1)),
    ],
)
def test_convolutions_and_batch_norms_read_the_second_dimension(module: nn.Module) -> None:
    assert features_last(traced(module)) is False


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 4),
        nn.Sequential(nn.Dropout(), nn.LayerNorm(4), nn.Conv1d(4, 4, 1)),
        Then(lambda x: F.layer_norm(x, (4,)), nn.Identity()),
        Then(lambda x: torch.ops.aten.linear.default(x, torch.ones(4, 4)), nn.Identity()),
        Then(lambda x: x + torch.ones(4), nn.LayerNorm(4)),
    ],
)
def test_linear_layers_and_layer_norms_read_the_last_dimension(module: nn.Module) -> None:
    assert features_last(traced(module)) is True


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(),
        Then(lambda x: x.permute(0, 2, 3, 1), nn.LayerNorm(4)),
        Then(lambda x: x.flatten(2), nn.Linear(4, 4)),
        Then(lambda x: torch.transpose(x, 1, 2), nn.Conv1d(4, 4, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4)),
        Then(lambda x: x.mT, nn.Linear(4, 4)),
    ],
)
def test_behind_a_change_of_dimensions_nothing_is_known(module: nn.Module) -> None:
    assert features_last(traced(module)) is None


@pytest.mark.parametrize(
    ("module", "shape", "kind"),
    [
        (nn.Conv2d(4, 6, 3, 2, 1), (4, 8, 8), "map"),
        (nn.ReLU(), (4, 8, 8), "map"),
        (nn.Upsample(scale_factor=2), (4, 8, 8), "map"),
        (nn.LayerNorm(6), (5, 7, 6), "grid"),
        (nn.Linear(6, 9), (5, 7, 6), "grid"),
        (nn.Linear(6, 9), (5, 6), "tokens"),
        (nn.ReLU(), (5, 6), "tokens"),
        (nn.Conv1d(5, 5, 1), (5, 6), None),
        (nn.Linear(6, 9), (6,), None),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten()), (4, 8, 8), None),
        (Then(lambda x: x[:, 1:], nn.Linear(6, 6)), (5, 6), None),
        (Then(lambda x: F.layer_norm(x, (6,))[:, ::2, ::2], nn.Linear(6, 9)), (4, 4, 6), None),
    ],
)
def test_the_kind_of_a_slot(
    make_view: MakeView, module: nn.Module, shape: tuple[int, ...], kind: str | None
) -> None:
    assert make_view(module, torch.zeros(2, *shape)).kind == kind


def test_a_map_with_channels_last_has_no_stride(make_view: MakeView) -> None:
    """Its shape is that of a stride of one, but a convolution would mix rows for channels."""
    assert make_view(nn.LayerNorm(6), torch.zeros(2, 5, 7, 6)).stride is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("vit_tiny_patch16_224", {"map": 1, "tokens": 24, None: 1}),
        ("swin_tiny_patch4_window7_224", {"map": 1, "grid": 12, "tokens": 12, None: 4}),
        ("convnext_atto", {"map": 16, None: 1}),
        ("poolformer_s12", {"map": 16, None: 1}),
    ],
)
def test_the_slots_of_timms_networks(name: str, kinds: dict[str | None, int]) -> None:
    timm = pytest.importorskip("timm")
    program = partition(trace(timm.create_model(name).eval(), (torch.zeros(2, 3, 224, 224),)))
    assert Counter(SlotView.of(program, slot).kind for slot in program.slots) == kinds
