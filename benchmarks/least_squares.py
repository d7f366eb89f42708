"""Robust non-linear least squares in a few lines of numpy: Levenberg and Marquardt's method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def fit(
    predict: Callable[[Array], Array],
    jacobian: Callable[[Array], Array],
    measured: Array,
    start: Array,
    *,
    weights: Array,
    width: float,
    freedom: Array,
    rounds: int = 30,
) -> Array:
    """Parameters that bring `predict` to `measured`; large residuals count by their size alone.

    Minimises sum of weights * 2 (sqrt(1 + r^2) - 1) with r = (predict - measured) / width, plus
    ((x - start) / freedom)^2: parameters that the data do not decide stay where they start.

    Args:
        predict: of the parameters.
        jacobian: its derivatives (measurements, parameters).
        measured: what to come to.
        start: parameters to start from.
        weights: of each measurement.
        width: where a residual begins to be large.
        freedom: how far each parameter may go from its start, a standard deviation.
        rounds: at most.
    """

    def loss(residual: Array, x: Array) -> float:
        pull = (x - start) / freedom
        return float(np.sum(weights * 2 * (np.sqrt(1 + residual**2) - 1)) + np.sum(pull**2))

    x, damping = start.copy(), 1e-2
    now = predict(x)
    best = loss((now - measured) / width, x)
    for _ in range(rounds):
        slopes = jacobian(x) / width
        residual = (now - measured) / width
        robust = weights / np.sqrt(1 + residual**2)
        normal = slopes.T @ (robust[:, None] * slopes) + np.diag(1 / freedom**2)
        gradient = slopes.T @ (robust * residual) + (x - start) / freedom**2
        improved = False
        for _ in range(8):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-12))
            trial = predict(x - step)
            value = loss((trial - measured) / width, x - step)
            if value < best:
                improved = best - value > 1e-4 * best
                x, now, best, damping = x - step, trial, value, max(damping / 4, 1e-6)
                break
            damping *= 4
        if not improved:
            break
    return x
