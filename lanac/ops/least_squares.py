"""Fitting linear maps in closed form, so that they give what the teacher's maps gave.

An op that inherits the teacher's weights feeds its maps with other values than the teacher did:
channels are missing, activations differ. Each map is fitted to the outputs of its model in the
teacher, on what it reads now, in the order of the graph, so that later maps mend what earlier ones
left (He et al. 2017, "Channel pruning for accelerating very deep neural networks").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from lanac.ops.linear_maps import (
    LinearMap,
    input_rows,
    linear_maps,
    matrix_of,
    run_graph,
    set_matrix,
)
from lanac.ops.reference import Reference

RIDGE = 1e-3
"""Pull towards the inherited weights, relative to the mean energy of an input."""
_CHUNK = 4096


class NormalEquations:
    """Sums of products of rows, in float64: what least squares needs, however many rows there are.

    Attributes:
        rows: how many were added.
        gram: inputs times inputs, (groups, inputs, inputs).
        moment: inputs times outputs, (groups, inputs, outputs).
        inputs: sum of the inputs, (groups, 1, inputs).
        outputs: sum of the outputs, (groups, 1, outputs).
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        new = torch.zeros
        self.rows = 0
        self.gram = new(groups, inputs, inputs, dtype=torch.float64)
        self.moment = new(groups, inputs, outputs, dtype=torch.float64)
        self.inputs = new(groups, 1, inputs, dtype=torch.float64)
        self.outputs = new(groups, 1, outputs, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds rows of inputs (groups, rows, inputs) and outputs (groups, rows, outputs)."""
        for start in range(0, x.shape[1], _CHUNK):
            ours = x[:, start : start + _CHUNK].double()
            theirs = y[:, start : start + _CHUNK].double()
            self.rows += ours.shape[1]
            self.gram += ours.transpose(1, 2) @ ours
            self.moment += ours.transpose(1, 2) @ theirs
            self.inputs += ours.sum(1, keepdim=True)
            self.outputs += theirs.sum(1, keepdim=True)

    def centred(self) -> tuple[Tensor, Tensor]:
        """`gram` and `moment` of inputs and outputs less their means."""
        mean = self.inputs / self.rows
        return (
            self.gram - mean.transpose(1, 2) @ self.inputs,
            self.moment - mean.transpose(1, 2) @ self.outputs,
        )

    def solve(self, start: Tensor, *, intercept: bool, ridge: float = RIDGE) -> Tensor:
        """The weights that minimise the squared error plus the squared distance from `start`.

        On these rows the result is never worse than `start`, whatever the ridge.

        Args:
            start: (groups, inputs, outputs).
            intercept: whether a constant may be added to each output.
            ridge: weight of the distance, relative to the mean energy of an input; more of it
                where there are few rows for the unknowns.

        Returns:
            Weights (groups, inputs, outputs).
        """
        gram, moment = self.centred() if intercept else (self.gram, self.moment)
        inputs = gram.shape[-1]
        energy = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        pull = energy * ridge * (1 + 10 * inputs / self.rows)
        system = gram + pull[:, None, None] * torch.eye(inputs, dtype=gram.dtype)
        change: Tensor = torch.linalg.solve(system, moment - gram @ start)
        return start + change

    def moments(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of what these weights give, (outputs,) each."""
        gram, _ = self.centred()
        variance = (weights * (gram @ weights)).sum(1) / self.rows
        return (self.inputs @ weights / self.rows).flatten(), variance.flatten().clamp_min(0)


@dataclass(frozen=True)
class Fit:
    """How a map is fitted.

    Attributes:
        layer: tells what is read, and the weights to start from.
        bias_of: the layer that adds the constant; `layer` itself where it is fitted as it stands.
        write: sets the weights (groups, inputs, outputs) that solve the equations; returns those
            that the op then has.
    """

    layer: LinearMap
    bias_of: LinearMap
    write: Callable[[NormalEquations, Tensor, bool], Tensor]

    @classmethod
    def of(cls, layer: LinearMap) -> Fit:
        def write(equations: NormalEquations, weights: Tensor, intercept: bool) -> Tensor:
            set_matrix(layer, weights)
            return weights

        return cls(layer, layer, write)


def refit(
    student: fx.GraphModule,
    reference: Reference,
    changed: Collection[str],
    *,
    columns: Mapping[str, Tensor] | None = None,
    fits: Mapping[str, Fit] | None = None,
) -> None:
    """Fits the linear maps of an op, in place, to what the teacher's maps gave.

    Maps that see too few rows for their unknowns, such as those of a squeeze-excite gate, which see
    one row per sample, keep their weights.

    Args:
        student: a changed copy of the slot's own op, its nodes by the same names, in eval mode.
        reference: the slot's own op on the calibration samples.
        changed: names of nodes that compute something else than in the slot's own op; the maps
            among them and those that read what depends on them are fitted.
        columns: which outputs a map has kept, by the name of its node; all where not named.
        fits: maps that are fitted in their own way, by the name of the node.
    """
    own = {node.name: Fit.of(layer) for node, layer in linear_maps(student)} | dict(fits or {})
    differs: set[fx.Node] = set()

    def fit(node: fx.Node, values: Mapping[fx.Node, Any]) -> None:
        if node.name in changed or any(source in differs for source in node.all_input_nodes):
            differs.add(node)
        if node not in differs or node.name not in own or node.name not in reference.maps:
            return
        model, how = reference.maps[node.name], own[node.name]
        wanted = model.outputs
        if columns is not None and node.name in columns:
            wanted = wanted[:, columns[node.name]]
        rows = input_rows(how.layer, values[node.all_input_nodes[0]], model.shape, model.places)
        if how.bias_of is how.layer and rows.shape[1] < 2 * rows.shape[2]:
            return
        equations = NormalEquations(len(rows), rows.shape[-1], wanted.shape[1] // len(rows))
        equations.add(rows, wanted.reshape(len(wanted), len(rows), -1).transpose(0, 1))
        _fit(how, equations, norm_behind(student, node))

    run_graph(student, reference.inputs, fit, lambda node, values: None)


def _fit(how: Fit, equations: NormalEquations, norm: _BatchNorm | None) -> None:
    bias = how.bias_of.bias
    intercept = bias is not None or norm is not None
    weights = equations.solve(matrix_of(how.layer), intercept=intercept)
    weights = how.write(equations, weights, intercept)
    mean, variance = equations.moments(weights)
    constant = (equations.outputs / equations.rows).flatten() - mean
    if bias is not None:
        with torch.no_grad():
            bias.copy_(constant)
        mean, constant = mean + constant, torch.zeros_like(constant)
    if norm is not None:
        renew_statistics(norm, mean, variance, constant)


def norm_behind(module: fx.GraphModule, node: fx.Node) -> _BatchNorm | None:
    """The batch norm that alone reads a node, None where there is none with weights and statistics."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    norm = module.get_submodule(str(user.target)) if user.op == "call_module" else None
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or not norm.affine:
        return None
    return norm


@torch.no_grad()
def renew_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, constant: Tensor) -> None:
    """Gives a batch norm the statistics of what it reads now; in eval mode it computes the same.

    Its weight and bias take up the difference, so that it computes the same on current statistics.

    Args:
        norm: in eval mode.
        mean: of each channel that it reads now, (channels,).
        variance: likewise.
        constant: what is to be added to each channel before it, (channels,).
    """
    assert norm.running_mean is not None and norm.running_var is not None
    old = (norm.running_var.double() + norm.eps).sqrt()
    new = (variance + norm.eps).sqrt()
    weight = norm.weight.double()
    norm.bias.add_((weight / old * (mean + constant - norm.running_mean.double())).to(norm.bias))
    norm.weight.copy_(weight * new / old)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
