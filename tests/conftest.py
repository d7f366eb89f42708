"""Settings for all tests: one thread, reproducible examples."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("lanac", deadline=None, derandomize=True)
settings.load_profile("lanac")
