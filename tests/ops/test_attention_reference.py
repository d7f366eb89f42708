"""Attention against timm's public implementations, with equal weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lanac.ops.bot import HEADS, MapAttention
from lanac.ops.lambda_layer import KEY_DEPTH, WINDOW, LambdaLayer
from lanac.ops.vit import TransformerBlock
from lanac.targets.counting import count_params

pytest.importorskip("timm")


def split(weight: Tensor, *modules: nn.Conv2d) -> None:
    """Gives each convolution its part of one that computes all their outputs."""
    parts = weight.detach().split([module.out_channels for module in modules])
    for module, part in zip(modules, parts, strict=True):
        module.weight.data.copy_(part)


def test_a_transformer_block_is_that_of_timms_vit() -> None:
    """The whole layer: norms, attention with biases, MLP, residuals."""
    from timm.models.vision_transformer import Block

    theirs, ours = Block(48, 4, qkv_bias=True).eval(), TransformerBlock(48, 4).eval()
    weights = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(weights))
    assert count_params(ours) == count_params(theirs)
    x = torch.randn(2, 17, 48)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_attention_on_maps_is_timms_without_position_tables(stride: int) -> None:
    """Timm's tables of relative positions at zero, ours (a convolution before it) left out.

    The mean behind it is part of their layer, and a layer of its own in ours.
    """
    from timm.layers.bottleneck_attn import BottleneckAttn

    theirs = BottleneckAttn(32, feat_size=(8, 6), stride=stride, num_heads=HEADS).eval()
    tables = [theirs.pos_embed.height_rel, theirs.pos_embed.width_rel]
    for table in tables:
        nn.init.zeros_(table)
    ours = MapAttention(32, HEADS).eval()
    split(theirs.qkv.weight, ours.query, ours.key_value)
    assert count_params(ours) == count_params(theirs) - sum(table.numel() for table in tables)
    x = torch.randn(2, 32, 8, 6)
    pooled = nn.AvgPool2d(stride, ceil_mode=True)(ours(x))
    torch.testing.assert_close(pooled, theirs(x))


@pytest.mark.parametrize("training", [False, True])
def test_a_lambda_layer_is_timms(training: bool) -> None:
    """The whole layer, the convolution of the position lambdas too: theirs is 9 x 9 x 1."""
    from timm.layers.lambda_layer import LambdaLayer as TimmLambdaLayer

    theirs = TimmLambdaLayer(32, num_heads=HEADS, dim_head=KEY_DEPTH, r=WINDOW).train(training)
    ours = LambdaLayer(32, HEADS, KEY_DEPTH, WINDOW).train(training)
    split(theirs.qkv.weight, ours.query, ours.key, ours.value)
    ours.position.weight.data.copy_(theirs.conv_lambda.weight.detach().squeeze(-1))
    assert theirs.conv_lambda.bias is not None and ours.position.bias is not None
    ours.position.bias.data.copy_(theirs.conv_lambda.bias.detach())
    for own, other in ((ours.query_norm, theirs.norm_q), (ours.value_norm, theirs.norm_v)):
        nn.init.uniform_(other.running_var, 0.5, 2)
        nn.init.normal_(other.weight)
        own.load_state_dict(other.state_dict())
    assert count_params(ours) == count_params(theirs)
    x = torch.randn(2, 32, 7, 10)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_pooled_keys_are_means_of_keys() -> None:
    """With keys of r x r positions, attention is that over the means of keys and values."""
    attention = MapAttention(8, 2, pooling=3).eval()
    x = torch.randn(2, 8, 7, 6)
    heads = [attention.query(x), *attention.key_value(x).chunk(2, dim=1)]
    means = [nn.functional.avg_pool2d(value, 3, ceil_mode=True) for value in heads[1:]]
    q, k, v = (value.flatten(2).reshape(2, 2, 4, -1) for value in (heads[0], *means))
    shares = torch.softmax(torch.einsum("bhdn,bhdm->bhnm", q, k) / 2, dim=-1)
    expected = torch.einsum("bhnm,bhdm->bhdn", shares, v).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)
