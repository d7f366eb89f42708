"""Passes: each takes a Compilation and returns one with more in it."""

from lanac.passes.base import Pass, run_passes
from lanac.passes.check_ops import CheckOps
from lanac.passes.check_outputs import CheckOutputs
from lanac.passes.check_training import CheckTraining
from lanac.passes.distill_candidates import DistillCandidates
from lanac.passes.emit_student import EmitStudent
from lanac.passes.enumerate_pool import EnumeratePool
from lanac.passes.evaluate_plans import EvaluatePlans
from lanac.passes.finetune_student import FinetuneStudent
from lanac.passes.measure_costs import MeasureCosts
from lanac.passes.prune_pool import PrunePool
from lanac.passes.refine_plans import RefinePlans
from lanac.passes.relax_budget import RelaxBudget
from lanac.passes.score_candidates import ScoreCandidates
from lanac.passes.search_plans import SearchPlans
from lanac.passes.select_plans import SelectPlans
from lanac.passes.time_finalists import TimeFinalists
from lanac.passes.trace_program import TraceProgram
from lanac.passes.tune_finalists import TuneFinalists
from lanac.passes.widen_finalists import WidenFinalists

__all__ = [
    "CheckOps",
    "CheckOutputs",
    "CheckTraining",
    "DistillCandidates",
    "EmitStudent",
    "EnumeratePool",
    "EvaluatePlans",
    "FinetuneStudent",
    "MeasureCosts",
    "Pass",
    "PrunePool",
    "RefinePlans",
    "RelaxBudget",
    "ScoreCandidates",
    "SearchPlans",
    "SelectPlans",
    "TimeFinalists",
    "TraceProgram",
    "TuneFinalists",
    "WidenFinalists",
    "run_passes",
]
