"""Learning rates over a run."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, peak: float, warmup: float = 0.05) -> float:
    """Rises linearly over the first `warmup` share of the steps, then falls to zero as a cosine."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
