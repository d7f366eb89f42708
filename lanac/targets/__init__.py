"""Targets, budgets and costs."""

from lanac.targets.budget import TITLES, Budget, Limit, format_cost, parse_budgets
from lanac.targets.costs import FLOPS, LATENCY, MEMORY, PARAMS, RESOURCES, CostTable
from lanac.targets.counting import count_flops, count_params, peak_activation_bytes
from lanac.targets.device import Device, devices, get_device
from lanac.targets.target import Target, parse_target
from lanac.targets.timing import Timing, time_interleaved

__all__ = [
    "FLOPS", "LATENCY", "MEMORY", "PARAMS", "RESOURCES", "TITLES", "Budget", "CostTable", "Device",
    "Limit", "Target", "Timing", "count_flops", "count_params", "devices", "format_cost",
    "get_device", "parse_budgets", "parse_target", "peak_activation_bytes", "time_interleaved",
]  # fmt: skip
