"""Targets, budgets and costs."""

from lanac.targets.budget import TITLES, Budget, Limit, format_cost, parse_budgets
from lanac.targets.cost_file import (
    CostFile,
    Entry,
    SlotShape,
    format_costs,
    read_costs,
    what_hash,
)
from lanac.targets.costs import (
    COUNTED,
    ENERGY,
    FLOPS,
    LATENCY,
    MEMORY,
    PARAMS,
    RESOURCES,
    SIZE,
    CostTable,
)
from lanac.targets.counting import (
    count_bytes,
    count_flops,
    count_params,
    peak_activation_bytes,
)
from lanac.targets.device import Device, devices, get_device
from lanac.targets.target import Target, parse_target
from lanac.targets.timing import (
    Comparison,
    Effort,
    Sampler,
    Timing,
    compare_interleaved,
    sample_interleaved,
    sampler,
    time_interleaved,
)

__all__ = [
    "COUNTED", "ENERGY", "FLOPS", "LATENCY", "MEMORY", "PARAMS", "RESOURCES", "SIZE", "TITLES",
    "Budget", "Comparison", "CostFile", "CostTable", "Device", "Effort", "Entry", "Limit",
    "Sampler", "SlotShape", "Target", "Timing", "compare_interleaved", "count_bytes",
    "count_flops", "count_params", "devices", "format_cost", "format_costs", "get_device",
    "parse_budgets", "parse_target", "peak_activation_bytes", "read_costs", "sample_interleaved",
    "sampler", "time_interleaved", "what_hash",
]  # fmt: skip
