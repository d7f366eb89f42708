"""What becomes of kernel lists: precision and the runtimes' fusion rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lanac.errors import TargetError
from lanac.ir import TensorSpec
from lanac.targets.predicted import record_kernels
from lanac.targets.predicted.fusion import RULES, eager, inductor, names, openvino, tensorrt
from lanac.targets.predicted.precision import with_precision


class Block(nn.Module):
    """Convolution, norm, swish, gate, linear convolution, norm, sum: an inverted residual."""

    def __init__(self, activation=nn.SiLU, gated=True):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.activation = activation()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.gated = gated
        self.last = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x):
        y = self.activation(self.first(x))
        if self.gated:
            y = y * self.gate(y)
        return x + self.last(y)


class Gained(nn.Module):
    """A convolution and a trained gain."""

    def __init__(self, shape, in_place=False):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1, bias=False)
        self.gain = nn.Parameter(torch.ones(shape))
        self.in_place = in_place

    def forward(self, x):
        y = self.conv(x)
        return y.mul_(self.gain) if self.in_place else y * self.gain


def listed(module, *shape):
    return record_kernels(module.eval(), [TensorSpec(shape, torch.float32)])


@pytest.fixture
def block():
    return listed(Block(), 2, 8, 6, 6)


def moved(kernels):
    return sum(kernel.read_bytes + kernel.written_bytes for kernel in kernels.kernels)


class TestEager:
    def test_every_kernel_is_on_its_own_and_a_bias_is_another(self, block):
        assert names(eager(block)) == [
            "convolution", "native_batch_norm", "silu", "mean", "convolution", "add", "sigmoid",
            "mul", "convolution", "native_batch_norm", "add",
        ]  # fmt: skip

    def test_depthwise_convolutions_add_their_bias_themselves(self):
        found = eager(listed(nn.Conv2d(8, 8, 3, groups=8), 1, 8, 6, 6))
        assert names(found) == ["convolution"]

    def test_group_norms_read_twice(self):
        moments, norm = eager(listed(nn.GroupNorm(2, 8), 1, 8, 6, 6)).kernels
        assert (moments.name, moments.kind) == ("moments", "reduce")
        assert (moments.read_bytes, moments.written_bytes) == (4 * 8 * 36, 0)
        assert (norm.name, norm.written_bytes) == ("native_group_norm", 4 * 8 * 36)


class TestInductor:
    def test_chains_are_joined_and_products_are_not(self, block):
        assert names(inductor(block)) == [
            "convolution", "native_batch_norm+silu+mean", "convolution", "sigmoid", "mul",
            "convolution", "native_batch_norm+add",
        ]  # fmt: skip

    def test_what_is_read_outside_is_still_written(self, block):
        joined = next(k for k in inductor(block).kernels if k.name.endswith("mean"))
        written = {operand.elements for operand in joined.writes}
        assert written == {2 * 16 * 36, 2 * 16}

    def test_a_cycle_is_never_made(self, block):
        """The product with the gate reads the chain, and through the convolution depends on it."""
        assert "mul" in names(inductor(block))


class TestTensorrt:
    def test_rectifiers_and_sums_join_the_convolution(self):
        found = tensorrt(listed(Block(nn.ReLU, gated=False), 2, 8, 6, 6))
        assert names(found) == [
            "convolution+native_batch_norm+relu",
            "convolution+native_batch_norm+add",
        ]

    def test_swish_does_not_on_volta(self):
        block = listed(Block(gated=False), 2, 8, 6, 6)
        assert names(tensorrt(block, fuses_swish=False)) == [
            "convolution+native_batch_norm", "silu", "convolution+native_batch_norm+add",
        ]  # fmt: skip
        assert names(tensorrt(block)) == [
            "convolution+native_batch_norm+silu", "convolution+native_batch_norm+add",
        ]  # fmt: skip

    def test_a_norm_whose_convolution_feeds_others_stays(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)

            def forward(self, x):
                y = self.conv(x)
                return y, self.norm(y)

        assert names(tensorrt(listed(Twice(), 1, 4, 5, 5))) == ["convolution", "native_batch_norm"]

    def test_padding_becomes_the_convolutions_own(self):
        padded = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3))
        (kernel,) = tensorrt(listed(padded, 1, 8, 6, 6)).kernels
        assert (kernel.name, kernel.kind) == ("constant_pad_nd+convolution", "conv3x3")

    def test_multiplications_are_kept(self, block):
        macs = sum(kernel.work.macs for kernel in block.kernels)
        assert {sum(k.work.macs for k in rule(block).kernels) for rule in RULES.values()} == {macs}


class TestOpenvino:
    def test_any_chain_joins_the_convolution(self):
        found = openvino(listed(Block(nn.Mish, gated=False), 2, 8, 6, 6))
        assert names(found)[0] == "convolution+native_batch_norm+mish"


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"eager"}))
def test_fusion_never_moves_more(rule, block):
    assert moved(RULES[rule](block)) < moved(block)


class TestPrecision:
    def test_half_moves_half(self, block):
        assert 2 * moved(with_precision(block, "fp16")) == moved(block)

    def test_autocast_casts_before_products(self, block):
        found = with_precision(block, "amp")
        assert names(found)[:4] == ["cast", "cast", "convolution", "native_batch_norm"]
        products = [kernel for kernel in found.kernels if kernel.work.macs]
        assert {operand.itemsize for k in products for operand in k.reads} == {2}

    def test_autocast_gives_the_widest_of_a_sum(self, block):
        """The input of the block is single precision, what the convolution gives is half."""
        last = with_precision(block, "amp").kernels[-1]
        assert sorted(operand.itemsize for operand in last.reads) == [2, 4]
        assert last.writes[0].itemsize == 4

    @pytest.mark.parametrize(
        ("shape", "itemsize"),
        [pytest.param((), 2, id="no dimension"), pytest.param((1,), 4, id="one value")],
    )
    def test_autocast_is_not_widened_by_values_without_a_dimension(self, shape, itemsize):
        found = with_precision(listed(Gained(shape), 2, 8, 6, 6), "amp")
        assert [kernel.writes[0].itemsize for kernel in found.kernels if kernel.name == "mul"] == [
            itemsize
        ]

    def test_autocast_leaves_the_type_of_what_is_changed_in_place(self):
        found = with_precision(listed(Gained((1,), in_place=True), 2, 8, 6, 6), "amp")
        assert [(k.name, k.writes[0].itemsize) for k in found.kernels[-2:]] == [
            ("convolution", 2),
            ("mul", 2),
        ]

    def test_integers_stay(self):
        found = record_kernels(nn.Embedding(10, 4), [TensorSpec((2, 3), torch.int64)])
        (kernel,) = with_precision(found, "fp16").kernels
        assert sorted(operand.itemsize for operand in kernel.reads) == [2, 8]

    def test_unknown(self, block):
        with pytest.raises(TargetError) as caught:
            with_precision(block, "fp61")
        assert str(caught.value) == (
            "unknown precision 'fp61'. Did you mean 'fp16' or 'fp32' or 'bf16'? "
            "Known: amp, bf16, fp16, fp32, int8."
        )
