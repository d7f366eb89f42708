"""Kernel lists: layers whose kernels are counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lanac.errors import PredictionError
from lanac.ir import TensorSpec
from lanac.targets.predicted import record_kernels


def spec(*shape):
    return TensorSpec(shape, torch.float32)


def listed(module, *shapes):
    return record_kernels(module.eval(), [spec(*shape) for shape in shapes])


def summary(module, *shapes):
    return [(kernel.name, kernel.kind) for kernel in listed(module, *shapes).kernels]


class TestCounting:
    def test_convolution(self):
        (kernel,) = listed(nn.Conv2d(8, 16, 3, padding=1, bias=False), (2, 8, 10, 10)).kernels
        assert kernel.kind == "conv3x3"
        assert kernel.work.macs == 2 * 16 * 10 * 10 * 8 * 9
        assert (kernel.work.m, kernel.work.n, kernel.work.k) == (2 * 10 * 10, 16, 8 * 9)
        assert kernel.read_bytes == 4 * (2 * 8 * 100 + 16 * 8 * 9)
        assert kernel.written_bytes == 4 * 2 * 16 * 100
        assert [operand.weight for operand in kernel.reads] == [False, True]

    def test_linear(self):
        (kernel,) = listed(nn.Linear(8, 5), (3, 8)).kernels
        assert kernel.kind == "linear"
        assert kernel.work.macs == 3 * 8 * 5
        assert kernel.read_bytes == 4 * (3 * 8 + 8 * 5 + 5)
        assert kernel.written_bytes == 4 * 3 * 5

    @pytest.mark.parametrize(
        ("layer", "kind"),
        [
            (nn.Conv2d(8, 8, 1), "conv1x1"),
            (nn.Conv2d(8, 8, 3, stride=2), "convkxk"),
            (nn.Conv2d(8, 8, 5), "convkxk"),
            (nn.Conv2d(8, 8, 3, groups=8), "depthwise"),
            (nn.Conv2d(8, 8, 3, groups=2), "grouped"),
            (nn.BatchNorm2d(8), "batch_norm"),
            (nn.GroupNorm(2, 8), "norm"),
            (nn.Softmax(1), "softmax"),
            (nn.MaxPool2d(2), "pool"),
            (nn.Hardswish(), "pointwise"),
            (nn.Upsample(scale_factor=2), "resize"),
        ],
    )
    def test_class(self, layer, kind):
        assert [kernel.kind for kernel in listed(layer, (2, 8, 12, 12)).kernels] == [kind]

    def test_the_first_convolution_is_a_class_of_its_own(self):
        assert summary(nn.Conv2d(3, 8, 3), (1, 3, 8, 8)) == [("convolution", "stem")]

    def test_transposed_convolution(self):
        layer = nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False)
        (kernel,) = listed(layer, (1, 4, 5, 5)).kernels
        assert kernel.work.macs == 4 * 25 * 6 * 4

    def test_a_pool_knows_its_window(self):
        (kernel,) = listed(nn.AvgPool2d(3), (1, 2, 9, 9)).kernels
        assert kernel.work.window == 9

    def test_batch_norm_writes_one_tensor(self):
        (kernel,) = listed(nn.BatchNorm2d(4), (2, 4, 3, 3)).kernels
        assert kernel.written_bytes == 4 * 2 * 4 * 9


class Written(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.run = forward

    def forward(self, *inputs):
        return self.run(*inputs)


class TestDataFlow:
    def test_views_cost_nothing(self):
        module = Written(lambda x: x.view(2, 12).t().unsqueeze(0)[:, :6] + 1)
        (kernel,) = listed(module, (2, 3, 4)).kernels
        assert (kernel.name, kernel.read_bytes, kernel.written_bytes) == ("add", 48, 48)

    @pytest.mark.parametrize(
        ("forward", "strided"),
        [
            pytest.param(lambda x: x + x, False, id="as it lies"),
            pytest.param(lambda x: F.relu(x.transpose(1, 2)), False, id="in another order"),
            pytest.param(lambda x: x.transpose(1, 2) * 2 + x.transpose(1, 2), False, id="both"),
            pytest.param(lambda x: x + x.transpose(1, 2), True, id="in two orders"),
            pytest.param(lambda x: x * x.mean(1, keepdim=True), False, id="repeated"),
            pytest.param(lambda x: x.transpose(1, 2).softmax(1), True, id="not elementwise"),
        ],
    )
    def test_elementwise_kernels_want_one_order(self, forward, strided):
        *_, kernel = [k for k in listed(Written(forward), (2, 3, 3)).kernels if k.kind != "copy"]
        assert kernel.work.strided is strided

    def test_what_lies_otherwise_is_copied(self):
        assert summary(Written(lambda x: x.permute(1, 0).contiguous()), (2, 3)) == [
            ("clone", "copy")
        ]

    def test_writing_in_place_gives_a_new_value(self):
        def forward(x):
            y = x * 2
            F.relu_(y)
            return y + 1

        found = listed(Written(forward), (4,))
        assert [kernel.name for kernel in found.kernels] == ["mul", "relu", "add"]
        assert found.feeds_only() == {0: 1, 1: 2}

    def test_who_feeds_one_other_alone(self):
        def forward(x):
            gate = torch.sigmoid(x)
            return x * gate, gate

        assert listed(Written(forward), (4,)).feeds_only() == {}

    def test_an_expanded_tensor_is_read_once(self):
        module = Written(lambda x: x + torch.zeros(1, 1, device=x.device).expand(8, 8))
        kernel = listed(module, (8, 8)).kernels[-1]
        assert kernel.read_bytes == 4 * (64 + 1)

    def test_attention_is_one_kernel(self):
        module = Written(F.scaled_dot_product_attention)
        (kernel,) = listed(module, *[(2, 3, 5, 8)] * 3).kernels
        assert (kernel.kind, kernel.work.macs) == ("attention", 2 * 3 * 5 * 5 * (8 + 8))
        assert kernel.read_bytes == 4 * 3 * 2 * 3 * 5 * 8

    def test_attention_in_five_dimensions_is_not_fused(self):
        module = Written(F.scaled_dot_product_attention)
        found = summary(module, *[(2, 3, 4, 5, 8)] * 3)
        assert found == [("bmm", "bmm"), ("softmax", "softmax"), ("bmm", "bmm")]

    def test_multi_head_attention_of_torch(self):
        kinds = [kind for _, kind in summary(Attending(), (2, 5, 8))]
        assert kinds.count("attention") == 1
        assert kinds.count("linear") == 2

    def test_norms_copy_what_is_not_contiguous(self):
        module = Written(lambda x: F.layer_norm(x.permute(0, 2, 1), (4,)))
        assert summary(module, (2, 4, 3)) == [("clone", "copy"), ("native_layer_norm", "norm")]


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class TestTheModule:
    def test_nothing_is_computed(self):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        record_kernels(module, [spec(1, 3, 100_000, 100_000)])
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    def test_weights_may_be_on_the_meta_device(self):
        with torch.device("meta"):
            module = nn.Linear(8, 5)
        found, real = listed(module, (3, 8)), listed(nn.Linear(8, 5), (3, 8))
        assert [k.read_bytes for k in found.kernels] == [k.read_bytes for k in real.kernels]
        assert [o.weight for o in found.kernels[0].reads] == [
            o.weight for o in real.kernels[0].reads
        ]

    def test_a_network_that_decides_by_values_is_refused(self):
        module = Written(lambda x: x + 1 if x.sum() > 0 else x)
        with pytest.raises(PredictionError) as caught:
            listed(module, (2, 3))
        assert str(caught.value) == (
            "the kernels of Written cannot be listed on inputs f32[N,3]: Tensor.item() cannot be "
            "called on meta tensors. Latency is predicted for networks whose code does not decide by "
            "the values of tensors"
        )
