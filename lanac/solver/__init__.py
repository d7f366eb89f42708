"""The selection problem as plain data, and SCIP behind it."""

from lanac.solver.problem import SelectedPlan, Selection, SelectionProblem, SelectionStatus
from lanac.solver.scip import solve
from lanac.solver.verify import verify_plan

__all__ = [
    "SelectedPlan",
    "Selection",
    "SelectionProblem",
    "SelectionStatus",
    "solve",
    "verify_plan",
]
