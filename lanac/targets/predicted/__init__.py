"""Predicted latency: what a network would take on a device that is not here.

kernels.py     the kernels that a module runs, recorded without computing
work.py        their classes and shapes
precision.py   what becomes narrower, and which casts that costs
fusion.py      which kernels a runtime joins
model.py       the latency of kernels from physical figures
ways.py        which rules, constants and figures hold for a target; fitted.json has the constants
prediction.py  the latency of modules, with its interval
anchors.py     measured networks that bring predictions to a target's scale
table.py       the costs of all ops of all slots
perturb.py     a guard against plans that are good by the model's errors
"""

from lanac.targets.predicted.anchors import Anchor, Calibration, calibrate, ratio_spread
from lanac.targets.predicted.kernels import Kernel, KernelList, Operand, record_kernels
from lanac.targets.predicted.perturb import (
    Judged,
    PerturbedTables,
    judge_plans,
    safety_factor,
)
from lanac.targets.predicted.prediction import DeviceTime, PartCost, Prediction, part_time, predict
from lanac.targets.predicted.table import PredictedTable, predict_table
from lanac.targets.predicted.ways import Way, way_of

__all__ = [
    "Anchor", "Calibration", "DeviceTime", "Judged", "Kernel", "KernelList", "Operand", "PartCost",
    "PerturbedTables", "PredictedTable", "Prediction", "Way", "calibrate", "judge_plans",
    "part_time", "predict", "predict_table", "ratio_spread",
    "record_kernels", "safety_factor", "way_of",
]  # fmt: skip
