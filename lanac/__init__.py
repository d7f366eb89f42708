"""lanac: a compiler for trained networks.

The public API is loaded where it is used: importing lanac alone imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lanac.errors import LanacError
from lanac.version import __version__

if TYPE_CHECKING:
    from lanac.beginning import begin
    from lanac.benching import Benchmark, bench
    from lanac.comparison import compare
    from lanac.compilation import Compilation
    from lanac.compiler import Result, choose_plan, compile, preparation
    from lanac.explaining import Explanation, explain
    from lanac.exporting import Exported, export
    from lanac.fronts import Front, pareto
    from lanac.inspection import Inspection, inspect
    from lanac.instruments import Instruments
    from lanac.ir import OpSpec
    from lanac.measuring import measure
    from lanac.ops.base import Family, SlotView
    from lanac.passes import run_passes
    from lanac.predicting import predict
    from lanac.settings import ComparisonSettings, Settings

_HOMES = {
    "Benchmark": "lanac.benching",
    "ComparisonSettings": "lanac.settings",
    "Compilation": "lanac.compilation",
    "Explanation": "lanac.explaining",
    "Exported": "lanac.exporting",
    "Family": "lanac.ops.base",
    "Front": "lanac.fronts",
    "Inspection": "lanac.inspection",
    "Instruments": "lanac.instruments",
    "OpSpec": "lanac.ir",
    "Result": "lanac.compiler",
    "Settings": "lanac.settings",
    "SlotView": "lanac.ops.base",
    "begin": "lanac.beginning",
    "bench": "lanac.benching",
    "choose_plan": "lanac.compiler",
    "compare": "lanac.comparison",
    "compile": "lanac.compiler",
    "explain": "lanac.explaining",
    "export": "lanac.exporting",
    "inspect": "lanac.inspection",
    "measure": "lanac.measuring",
    "pareto": "lanac.fronts",
    "predict": "lanac.predicting",
    "preparation": "lanac.compiler",
    "run_passes": "lanac.passes",
}

__all__ = [
    "Benchmark",
    "ComparisonSettings",
    "Compilation",
    "Explanation",
    "Exported",
    "Family",
    "Front",
    "Inspection",
    "Instruments",
    "LanacError",
    "OpSpec",
    "Result",
    "Settings",
    "SlotView",
    "__version__",
    "begin",
    "bench",
    "choose_plan",
    "compare",
    "compile",
    "explain",
    "export",
    "inspect",
    "measure",
    "pareto",
    "predict",
    "preparation",
    "run_passes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lanac' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
