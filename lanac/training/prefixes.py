"""Running many networks of one teacher, so that what they have in common at the front runs once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lanac.ir import Program
from lanac.training.data import Batch
from lanac.training.nodes import NodeRunner, Values
from lanac.training.suffix import copied

Modules = Sequence[nn.Module]
"""One module per slot, in the order of the program's slots."""


class PrefixRunner:
    """Walks the tree of the networks' common beginnings, depth first.

    The network of two plans is the same up to the first slot in which they differ; so is whatever
    lies between the slots, which need not form a chain. Where networks part, the larger group goes
    on with the values at hand and the others get copies: a copy is alive only while at most half of
    the networks of the place where it was made are run. So K networks hold at most
    1 + log2(K) sets of the values that are still needed.
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        self._runner = NodeRunner(program, device)
        self.module = self._runner.module
        self.own: tuple[nn.Module, ...] = tuple(
            self.module.get_submodule(slot.attribute) for slot in program.slots
        )
        self._index = {slot.attribute: index for index, slot in enumerate(program.slots)}

    @torch.no_grad()
    def outputs(self, batch: Batch, networks: Sequence[Modules]) -> Iterator[tuple[list[int], Any]]:
        """The networks' outputs on a batch.

        Args:
            batch: on the runner's device.
            networks: as modules; the same module in the same slot is the same op. `own` is the
                teacher.

        Yields:
            Places of networks that are the same, and their outputs; every place once. The outputs
            belong to the caller.
        """
        if networks:
            inputs = Batch(tuple(value.clone() for value in batch.inputs))
            yield from self._walk(0, {}, iter(inputs.inputs), networks, list(range(len(networks))))

    def _walk(
        self,
        place: int,
        values: Values,
        inputs: Iterator[Tensor],
        networks: Sequence[Modules],
        members: list[int],
    ) -> Iterator[tuple[list[int], Any]]:
        """The members' outputs from a place on; the values are this walk's to change."""
        runner = self._runner
        for position in range(place, len(runner.nodes)):
            node = runner.nodes[position]
            if runner.slot(node) is None:
                values[node] = runner.evaluate(node, values, inputs)
            else:
                index = self._index[str(node.target)]
                *fewer, members = _parted(networks, members, index)
                for group in fewer:
                    yield from self._walk(position, copied(values), inputs, networks, group)
                op = networks[members[0]][index]
                values[node] = op(runner.entered(node, values))
            for dead in runner.last_use.get(position, ()):
                del values[dead]
        yield members, values[runner.nodes[-1]]


def _parted(networks: Sequence[Modules], members: list[int], index: int) -> list[list[int]]:
    """The members by their module in a slot, the largest group last."""
    groups: dict[int, list[int]] = {}
    for member in members:
        groups.setdefault(id(networks[member][index]), []).append(member)
    return sorted(groups.values(), key=len)


def slot_runs(networks: Sequence[Sequence[object]]) -> tuple[int, int]:
    """How often a slot's op runs for these networks: with shared beginnings, and one by one."""
    slots = len(networks[0]) if networks else 0
    shared = sum(
        len({tuple(network[: depth + 1]) for network in networks}) for depth in range(slots)
    )
    return shared, slots * len(networks)
