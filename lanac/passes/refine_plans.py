"""Refine: scores are measured anew around the best plan, and the selection is solved again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lanac.compilation import Compilation, Finalist, RefineRound
from lanac.ir import TEACHER, Plan
from lanac.passes.evaluate_plans import EvaluatePlans, Ops, PlanEvaluation
from lanac.passes.select_plans import selection_problem, to_plan
from lanac.solver import around, changed, interaction, promising, solve, without

_PROBED = 16
"""So many slots are probed for pairs that interact: the square of it is paid for."""

Choices = tuple[int, ...]
Pair = tuple[int, int]


@dataclass(frozen=True)
class RefinePlans:
    """Looks for better plans near the best one that was measured.

    A round takes the best plan, puts other ops into one slot of it at a time and measures the loss
    (and, for some pairs of slots, two at a time), solves the selection with these scores under the
    same budget, without the plans that were measured already, and evaluates what it finds. A plan is
    kept where its measured loss is lower; a round that finds none is the last. All losses are kept
    in the workspace.

    Attributes:
        rounds: at most so many.
        images: training images that changes are measured on.
        changes: at most so many changes of one slot are measured per round, the most promising ones.
        pairs: for so many pairs of slots it is measured what two changes add to each other.
        pair_ops: so many ops of each of their slots, the most promising ones.
        plans: so many new plans are evaluated per round.
        time_limit_s: of the selection.
        gap: how close to the best by prediction these have to be proven.
        evaluation: how they are evaluated.
    """

    rounds: int = 1
    images: int = 1024
    changes: int = 64
    pairs: int = 8
    pair_ops: int = 3
    plans: int = 8
    time_limit_s: float = 60.0
    gap: float = 0.02
    evaluation: EvaluatePlans = field(default_factory=EvaluatePlans)
    name = "refine_plans"
    needs = ("program", "pool", "costs", "scores", "weights", "plans", "chosen")
    provides = ("finalists",)

    def run(self, compilation: Compilation) -> Compilation:
        base: Finalist = compilation.need("chosen")
        found: dict[Ops, Finalist] = {}
        measured = {plan.ops for plan in compilation.need("plans")}
        measured |= {item.plan.ops for item in compilation.need("finalists")}
        history: list[RefineRound] = []
        # Near plans differ by little: fewer images than their changes were measured on rank noise.
        first_images = max(self.images, self.evaluation.first_images)
        evaluation = replace(self.evaluation, first_images=first_images)
        for _ in range(self.rounds):
            nearby = Neighbourhood(self, compilation, base.plan)
            plans = nearby.plans(measured)
            if not plans:
                break
            measured |= {plan.ops for plan in plans}
            evaluated = evaluation.run(compilation.having(plans=(base.plan, *plans)))
            best, *_ = finalists = evaluated.need("finalists")
            after = min(base.loss, best.loss)
            history.append(RefineRound(nearby.networks, len(plans), base.loss, after))
            if not best.loss < base.loss:
                break
            # The plan to begin with is among the finalists already, with its latency.
            found |= {item.plan.ops: item for item in finalists if item.loss < base.loss}
            base = best
        self._say(compilation, history)
        new = sorted(found.values(), key=lambda item: item.loss)[: self.evaluation.finalists]
        finalists = (*new, *compilation.need("finalists"))
        return compilation.having(finalists=finalists, refined=tuple(history))

    def _say(self, compilation: Compilation, history: Sequence[RefineRound]) -> None:
        if not history:
            return
        first, last = history[0].before, min(item.after for item in history)
        networks = sum(item.networks + item.plans for item in history)
        what = (
            f"lowered the loss from {first:.4f} to {last:.4f}"
            if last < first
            else "found no plan with a lower loss"
        )
        compilation.instruments.say(f"refining {what}, with {networks} more networks measured")


class Neighbourhood:
    """A plan and what changes of it do to the loss.

    Attributes:
        problem: the selection with scores around the plan; what is not promising cannot be chosen.
        above: loss of the plan less that of the teacher.
        networks: how many were measured.
    """

    def __init__(self, options: RefinePlans, compilation: Compilation, plan: Plan) -> None:
        self.options, self.compilation = options, compilation
        slots = compilation.need("program").slots
        self._pool = [compilation.need("pool")[slot.name] for slot in slots]
        self.base, self.networks = self.choices(plan.ops), 0
        # Plans near to each other are what is looked for: two slots of difference are enough.
        problem = replace(
            selection_problem(compilation, options.plans, 1.0), max_overlap=max(0, len(slots) - 2)
        )
        nearby = promising(problem, self.base, options.changes)
        pairs = self._pairs(nearby)
        singles = {pair: changed(self.base, pair) for pair in nearby}
        doubles = {pair: changed(self.base, *pair) for pair in pairs}
        teacher = self.choices((TEACHER,) * len(slots))
        losses = self._losses([teacher, self.base, *singles.values(), *doubles.values()])
        at = losses[self.base]
        changes = {
            pair: losses[network] - at
            for pair, network in singles.items()
            if math.isfinite(losses[network])
        }
        interactions = {
            (one, two): interaction(at, losses[singles[one]], losses[singles[two]], losses[both])
            for (one, two), both in doubles.items()
            if one in changes and two in changes and math.isfinite(losses[both])
        }
        self.problem = around(problem, self.base, changes, interactions)
        self.above = at - losses[teacher]

    def choices(self, ops: Ops) -> Choices:
        """The places of ops in their pools."""
        return tuple(pool.index(op) for pool, op in zip(self._pool, ops, strict=True))

    def plans(self, measured: Iterable[Ops]) -> list[Plan]:
        """New plans, the best by prediction first; none where no plan is left."""
        options, compilation = self.options, self.compilation
        if len(self.problem.fixed) == len(self.problem.slots):
            return []
        problem = without(self.problem, map(self.choices, measured))
        selection = solve(
            problem, seed=compilation.seed, time_limit_s=options.time_limit_s, gap=options.gap
        )
        return [self._plan(to_plan(compilation, found)) for found in selection.plans]

    def _plan(self, plan: Plan) -> Plan:
        """A plan whose score is, as for all plans, the sum of its scores in the teacher."""
        slots, scores = self.compilation.need("program").slots, self.compilation.need("scores")
        own = math.fsum(scores[s.name][op] for s, op in zip(slots, plan.ops, strict=True))
        return replace(plan, score=own, refined_score=self.above + plan.score)

    def _pairs(self, nearby: Sequence[Pair]) -> list[tuple[Pair, Pair]]:
        """Which changes are measured two at a time: those in slots that interact the most."""
        options = self.options
        if not options.pairs:
            return []
        ops: dict[int, list[Pair]] = {}
        for pair in nearby:
            ops.setdefault(pair[0], []).append(pair)
        firsts = itertools.islice(ops.items(), _PROBED)  # in the order of promise
        chosen = self._interacting({slot: pairs[0] for slot, pairs in firsts})
        most = options.pair_ops
        return [pair for i, k in chosen for pair in itertools.product(ops[i][:most], ops[k][:most])]

    def _interacting(self, probes: Mapping[int, Pair]) -> list[tuple[int, int]]:
        """The pairs of slots whose most promising changes interact the most, found on few images."""
        base, few = self.base, min(self.options.images, self.options.evaluation.batch)
        together = list(itertools.combinations(sorted(probes), 2))
        networks = [base, *(changed(base, pair) for pair in probes.values())]
        networks += [changed(base, probes[i], probes[k]) for i, k in together]
        losses = self._losses(networks, few)

        def size(pair: tuple[int, int]) -> float:
            one, two = probes[pair[0]], probes[pair[1]]
            found = interaction(
                losses[base],
                losses[changed(base, one)],
                losses[changed(base, two)],
                losses[changed(base, one, two)],
            )
            return abs(found) if math.isfinite(found) else 0.0

        return sorted(together, key=lambda pair: (-size(pair), pair))[: self.options.pairs]

    def _losses(
        self, networks: Sequence[Choices], images: int | None = None
    ) -> dict[Choices, float]:
        compilation, options = self.compilation, self.options
        count = min(images or options.images, len(compilation.task.train))
        evaluation = PlanEvaluation(compilation, options.evaluation.batch, count)
        ops = {choices: self._ops(choices) for choices in networks}
        self.networks += len(ops)
        steps = len(ops) * evaluation.batches(count)
        with compilation.instruments.progress("measuring changes", steps) as advance:
            losses = evaluation.losses(list(ops.values()), count, advance)
        return {choices: losses[network] for choices, network in ops.items()}

    def _ops(self, choices: Choices) -> Ops:
        return tuple(pool[choice] for pool, choice in zip(self._pool, choices, strict=True))
