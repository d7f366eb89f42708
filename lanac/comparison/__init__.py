"""The comparisons of the paper for the user's own model: Table 5, Figure 4, Table 6.

All three start from what a compilation prepares, keep what they compute in the same workspace, and
go on where they were stopped.
"""

from lanac.comparison.methods import MethodRow, MethodTable, compare_methods
from lanac.comparison.pools import PoolRow, PoolTable, compare_pools
from lanac.comparison.preparing import TABLES, compare
from lanac.comparison.ranking import BudgetRanking, Judged, Ranking, compare_ranking

__all__ = [
    "TABLES",
    "BudgetRanking",
    "Judged",
    "MethodRow",
    "MethodTable",
    "PoolRow",
    "PoolTable",
    "Ranking",
    "compare",
    "compare_methods",
    "compare_pools",
    "compare_ranking",
]
