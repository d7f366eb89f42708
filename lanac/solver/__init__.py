"""The selection problem as plain data, and SCIP behind it."""

from lanac.solver.local import around, changed, interaction, promising, without
from lanac.solver.pareto import ParetoPoint, pareto
from lanac.solver.problem import (
    CHANGED,
    SelectedPlan,
    Selection,
    SelectionProblem,
    SelectionStatus,
)
from lanac.solver.scip import solve
from lanac.solver.verify import verify_plan

__all__ = [
    "CHANGED",
    "ParetoPoint",
    "SelectedPlan",
    "Selection",
    "SelectionProblem",
    "SelectionStatus",
    "around",
    "changed",
    "interaction",
    "pareto",
    "promising",
    "solve",
    "verify_plan",
    "without",
]
