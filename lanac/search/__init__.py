"""Ways of searching for plans beside SCIP's: for comparison (paper, Table 5).

One file per method, each with a function `search` of the type `Method`.
"""

from lanac.search import enas, evolution, random_plans, snas
from lanac.search.base import Judge, Ledger, Method, SearchOptions
from lanac.search.space import Choices, Space, cheapest_problem

METHODS: dict[str, Method] = {
    "random": random_plans.search,
    "evolution": evolution.search,
    "snas": snas.search,
    "enas": enas.search,
}
"""The methods by name; `scip`, which needs no judge, is the pass `select_plans`."""

__all__ = [
    "METHODS",
    "Choices",
    "Judge",
    "Ledger",
    "Method",
    "SearchOptions",
    "Space",
    "cheapest_problem",
]
