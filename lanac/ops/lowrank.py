"""The teacher's own op with its large layers as products of two smaller ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lanac.ir import OpSpec
from lanac.ops.base import SlotView
from lanac.ops.least_squares import Fit, NormalEquations, refit
from lanac.ops.linear_maps import LinearMap, linear_maps, matrix_of, replace_layer
from lanac.ops.values import SHARE

SHARES = (0.75, 0.5, 0.25)
LARGE = 0.1
"""Share of the slot's multiplications from which on a layer is large."""


@dataclass(frozen=True)
class Factoring:
    """How a layer is factored.

    Attributes:
        rank: channels between the two layers, a multiple of eight.
        spatial: k x 1 and 1 x k, instead of k x k and 1 x 1.
    """

    rank: int
    spatial: bool


class LowRankFamily:
    """Inherits: the two factors that change a layer's output least on the calibration samples.

    Whether a convolution becomes k x k and 1 x 1 or k x 1 and 1 x k is decided by its weights alone,
    at equal cost: what an op costs must be known before there are samples.
    """

    name = "lowrank"
    equation = "y = t(x) with large layers W = A B, at r of their multiplications"
    option_values = (("r", SHARE),)

    def enumerate(self, view: SlotView) -> Iterable[OpSpec]:
        ops: dict[tuple[Factoring, ...], OpSpec] = {}
        for share in SHARES:
            found = tuple(factoring for _, _, factoring in _factorings(view, view.teacher, share))
            if found:
                ops.setdefault(found, OpSpec.of(self.name, r=share))
        return list(ops.values())

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        module = copy.deepcopy(view.teacher)
        fits: dict[str, Fit] = {}
        for node, layer, factoring in list(_factorings(view, module, op.number("r"))):
            pair = factored(layer, factoring)
            replace_layer(module, str(node.target), pair)
            fits[node.name] = _fit_of(layer, pair, factoring)
        if view.reference is not None:
            refit(module, view.reference, list(fits), fits=fits)
        return module


def _factorings(
    view: SlotView, module: fx.GraphModule, share: float
) -> Iterator[tuple[fx.Node, LinearMap, Factoring]]:
    """The large layers that get cheaper, each with its form."""
    layers = list(linear_maps(module))
    work = {node: layer.weight.numel() * _places(view, node, layer) for node, layer in layers}
    for node, layer in layers:
        if work[node] >= LARGE * sum(work.values()):
            factoring = choose_factoring(layer, share)
            if factoring is not None:
                yield node, layer, factoring


def _places(view: SlotView, node: fx.Node, layer: LinearMap) -> int:
    shape = view.inner_specs[node.name].sample_shape
    return torch.Size(shape).numel() // layer.weight.shape[0]


def choose_factoring(layer: LinearMap, share: float) -> Factoring | None:
    """The form of smaller error at that share of the layer's multiplications; None where none is.

    The error is that of the weights: for white inputs that of the outputs.
    """
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return None
    outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
    ranks = {False: _aligned_down(share * inputs * outputs / (inputs + outputs))}
    if isinstance(layer, nn.Conv2d) and _is_separable(layer):
        high, wide = layer.kernel_size
        # The first factor runs before the horizontal stride.
        cost = layer.in_channels * high * layer.stride[1] + wide * outputs
        ranks[True] = _aligned_down(share * inputs * outputs / cost)
    forms = [Factoring(rank, spatial) for spatial, rank in ranks.items() if rank]
    if len(forms) < 2:
        return forms[0] if forms else None
    return min(forms, key=lambda form: _lost(layer, form))


def _aligned_down(rank: float) -> int:
    return int(rank) // 8 * 8


def _is_separable(layer: nn.Conv2d) -> bool:
    plain = type(layer) is nn.Conv2d and not isinstance(layer.padding, str)
    return plain and min(layer.kernel_size) > 1


def _lost(layer: LinearMap, form: Factoring) -> float:
    """What the best approximation of that form loses of the weights, squared."""
    matrix = matrix_of(layer)[0]
    if form.spatial and isinstance(layer, nn.Conv2d):
        matrix = _spatial_matrix(layer, matrix)
    return float(torch.linalg.svdvals(matrix)[form.rank :].square().sum())


def _spatial_matrix(layer: nn.Conv2d, matrix: Tensor) -> Tensor:
    """Weights as (inputs times rows of the kernel, columns of the kernel times outputs)."""
    return matrix.reshape(layer.in_channels * layer.kernel_size[0], -1)


def factored(layer: LinearMap, factoring: Factoring) -> nn.Sequential:
    """Two layers in the place of one, from its weights alone."""
    rank, options = factoring.rank, {"dtype": layer.weight.dtype}
    has_bias = layer.bias is not None
    first: nn.Module
    second: LinearMap
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False, **options)
        second = nn.Linear(rank, layer.out_features, bias=has_bias, **options)
    elif factoring.spatial:
        (high, wide), (down, right) = layer.kernel_size, layer.stride
        assert not isinstance(layer.padding, str)
        top, left = layer.padding
        first = nn.Conv2d(
            layer.in_channels, rank, (high, 1), (down, 1), (top, 0), (layer.dilation[0], 1),
            bias=False, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        second = nn.Conv2d(
            rank, layer.out_channels, (1, wide), (1, right), (0, left), (1, layer.dilation[1]),
            bias=has_bias, **options,  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        first = copy.deepcopy(layer)
        first.weight = nn.Parameter(layer.weight.detach()[:1].repeat(rank, 1, 1, 1))
        first.bias, first.out_channels = None, rank
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias, **options)  # type: ignore[arg-type]
    pair = nn.Sequential(first, second)
    if second.bias is not None and layer.bias is not None:
        with torch.no_grad():
            second.bias.copy_(layer.bias)
    inputs = layer.weight[0].numel()
    _write(layer, pair, factoring, torch.eye(inputs, dtype=torch.float64), matrix_of(layer)[0])
    return pair.train(layer.training)


def _fit_of(layer: LinearMap, pair: nn.Sequential, factoring: Factoring) -> Fit:
    def write(equations: NormalEquations, weights: Tensor, intercept: bool) -> Tensor:
        gram = (equations.centred()[0] if intercept else equations.gram)[0]
        return _write(layer, pair, factoring, gram, weights[0])[None]

    second = pair[1]
    assert isinstance(second, (nn.Conv2d, nn.Linear))
    return Fit(layer, second, write)


@torch.no_grad()
def _write(
    layer: LinearMap, pair: nn.Sequential, factoring: Factoring, gram: Tensor, matrix: Tensor
) -> Tensor:
    """Sets both factors; returns their product as one matrix.

    Args:
        layer: the layer that is factored.
        pair: its two factors.
        factoring: their form.
        gram: products of the inputs X'X, (inputs, inputs).
        matrix: W, (inputs, outputs).
    """
    rank = factoring.rank
    first, second = pair[0].weight, pair[1].weight
    assert isinstance(first, Tensor) and isinstance(second, Tensor)
    if not factoring.spatial:
        left, right = _two_factors(gram, matrix, rank)
        first.copy_(left.T.reshape(first.shape))
        second.copy_(right.T.reshape(second.shape))
        return left @ right
    assert isinstance(layer, nn.Conv2d)
    wide, rows = layer.kernel_size[1], layer.in_channels * layer.kernel_size[0]
    flat = _spatial_matrix(layer, matrix)
    by_column = gram.reshape(rows, wide, rows, wide)
    column = by_column.diagonal(dim1=1, dim2=3).sum(-1)
    left = flat @ _leading(flat.T @ column @ flat, rank)  # (rows, rank)
    # The second factor is the best one for this first one, in closed form.
    narrowed = torch.einsum("ra,rvsw,sb->vawb", left, by_column, left).reshape(wide * rank, -1)
    moment = torch.einsum("ra,rvo->vao", left, (gram @ matrix).reshape(rows, wide, -1))
    tiny = 1e-9 * narrowed.diagonal().mean() * torch.eye(len(narrowed), dtype=gram.dtype)
    right = torch.linalg.solve(narrowed + tiny, moment.reshape(wide * rank, -1))
    right = right.view(wide, rank, -1)
    first.copy_(left.T.reshape(first.shape))
    second.copy_(right.permute(2, 1, 0).reshape(second.shape))
    return torch.einsum("ra,vao->rvo", left, right).reshape(matrix.shape)


def _two_factors(gram: Tensor, matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The product AB of that rank next to W in the outputs: least |X (W - AB)|.

    With X'X = LL' it is the truncated singular value decomposition of L'W. The smaller of its two
    symmetric products has the vectors: B' of W'X'XW, and A = WB', or else U of L'WW'L.
    """
    inputs, outputs = matrix.shape
    if outputs <= inputs:
        basis = _leading(matrix.T @ gram @ matrix, rank)
        return matrix @ basis, basis.T
    jitter = (1e-9 * gram.diagonal().mean()).clamp_min(1e-30)
    lower = torch.linalg.cholesky(gram + jitter * torch.eye(inputs, dtype=gram.dtype))
    white = lower.T @ matrix
    basis = _leading(white @ white.T, rank)
    left = torch.linalg.solve_triangular(lower.T, basis, upper=True)
    return left, basis.T @ white


def _leading(symmetric: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the largest eigenvalues, (size, rank)."""
    vectors: Tensor = torch.linalg.eigh(symmetric).eigenvectors
    return vectors[:, -rank:].flip(1)


FAMILY = LowRankFamily()
