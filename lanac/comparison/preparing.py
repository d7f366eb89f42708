"""compare(): what a comparison starts from, and which ones there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from typing_extensions import Unpack

from lanac.beginning import Given
from lanac.comparison.methods import MethodTable, compare_methods
from lanac.comparison.pools import PoolTable, compare_pools
from lanac.comparison.ranking import Ranking, compare_ranking
from lanac.compiler import prepare
from lanac.errors import BudgetError, CommandError, unknown_name
from lanac.ops.base import Family
from lanac.passes import run_passes
from lanac.passes.guard_budget import GuardBudget
from lanac.passes.search_plans import SEARCHES, check_search
from lanac.settings import ComparisonSettings, Settings
from lanac.targets import parse_budgets

TABLES = ("methods", "ranking", "pools")
"""What can be compared."""
_LEAST_PLANS = 20


def compare(
    model: nn.Module,
    *,
    table: str = "methods",
    methods: Sequence[str] | None = None,
    budget: str = "0.5x",
    target: str = "cpu",
    pool: str = "default",
    settings: Settings | None = None,
    comparison: ComparisonSettings | None = None,
    threads: int | None = None,
    ops: Sequence[Family | type[Family]] = (),
    out: str | Path = "lanac-out",
    **given: Unpack[Given],
) -> MethodTable | Ranking | PoolTable:
    """Prepares a teacher as `compile` does, and makes one of the paper's comparisons with it.

    Args:
        model: the trained teacher.
        table: `methods`: ways of finding plans (Table 5); `ranking`: predicted against measured
            losses (Figure 4); `pools`: pools of several sizes (Table 6).
        methods: searches to compare, for `methods`; default: all.
        budget: one budget; a ranking varies its first limit.
        target: as for `compile`.
        pool: pool names, families and ops, separated by commas.
        settings: how much work goes into preparation, searches, evaluation and finetuning.
        comparison: how much work goes into the rest.
        threads: as for `compile`.
        ops: your own op families, as for `compile`.
        out: folder of the students; the workspace is below it.
        given: the further arguments of `begin`: `train_data`, which has to be there, and so on.

    Returns:
        The comparison that `table` names.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    settings, comparison = settings or Settings(), comparison or ComparisonSettings()
    check_table(table)
    chosen = tuple(dict.fromkeys(SEARCHES if methods is None else methods))
    for name in chosen:
        check_search(name, "--methods")
    if not chosen:
        raise CommandError(f"--methods is empty; known: {', '.join(SEARCHES)}")
    _check_counts(comparison)
    budgets = parse_budgets(budget)
    if len(budgets) > 1:
        raise BudgetError(f"budget {budget!r}: a comparison takes one budget, got {len(budgets)}")
    with prepare(
        model,
        budget=budget,
        budgets=budgets,
        target=target,
        out=out,
        pool=pool,
        ops=ops,
        settings=settings,
        threads=threads,
        **given,
    ) as scored:
        prepared = run_passes(scored, [GuardBudget()])
        if table == "ranking":
            return compare_ranking(prepared, settings, comparison)
        if table == "pools":
            return compare_pools(prepared, settings, comparison)
        return compare_methods(prepared, chosen, settings, comparison)


def check_table(table: str) -> None:
    """Raises CommandError for a comparison that does not exist."""
    if table not in TABLES:
        raise CommandError(f"--show {table!r}: {unknown_name('comparison', table, TABLES)}")


def _check_counts(comparison: ComparisonSettings) -> None:
    if comparison.random_plans < _LEAST_PLANS:
        raise CommandError(
            f"--random-plans {comparison.random_plans}: expected at least {_LEAST_PLANS}; the order "
            "of fewer says nothing"
        )
    for size in comparison.pool_sizes:
        if size < 2:
            raise CommandError(
                f"--pool-sizes: expected sizes of at least 2 (the teacher's op and another), got {size}"
            )
