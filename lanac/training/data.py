"""The user's data behind one small interface: batches by index, reproducible and resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from lanac.errors import DataError
from lanac.workspace import key_of

_ACCEPTED = (
    "expected a torch Dataset of (input, target) pairs, a DataLoader over one, "
    "or a pair of tensors (inputs, targets)"
)


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of one step.

    Attributes:
        inputs: tensors (B, ...), one per input of the network.
        targets: whatever the loss takes; None where the data have no labels.
    """

    inputs: tuple[Tensor, ...]
    targets: Any = None

    def to(self, device: torch.device) -> Batch:
        move = torch.utils._pytree.tree_map_only
        return Batch(
            tuple(value.to(device, non_blocking=True) for value in self.inputs),
            move(Tensor, lambda value: value.to(device, non_blocking=True), self.targets),
        )

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class Data:
    """A map-style dataset with its collation.

    Attributes:
        dataset: has `__len__` and `__getitem__`.
        collate: a list of samples to one batch.
        workers: worker processes that load samples, taken from the user's DataLoader.
        name: what the user calls it, for messages: "train_data()".
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    workers: int
    name: str

    @classmethod
    def of(cls, source: Any, name: str) -> Data:
        """Wraps what the user gave; raises DataError for what cannot be indexed or is empty."""
        if isinstance(source, Data):
            return source
        if isinstance(source, DataLoader):
            collate = source.collate_fn or default_collate
            return cls._checked(cls(source.dataset, collate, source.num_workers, name))
        if isinstance(source, tuple) and source and all(isinstance(t, Tensor) for t in source):
            lengths = {len(tensor) for tensor in source}
            if len(lengths) > 1:
                raise DataError(f"{name}: tensors of different lengths {sorted(lengths)}")
            source = TensorDataset(*source)
        return cls._checked(cls(source, default_collate, 0, name))

    @classmethod
    def _checked(cls, data: Data) -> Data:
        dataset = data.dataset
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise DataError(
                f"{data.name} gave {type(dataset).__name__}, which cannot be indexed; {_ACCEPTED}"
            )
        if len(dataset) == 0:
            raise DataError(f"{data.name} is empty; {_ACCEPTED}")
        data.batch([0])
        return data

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices as one batch; DataError where a sample has a wrong form."""
        try:
            samples = [self.dataset[index] for index in indices]
            return self._as_batch(self.collate(samples))
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.name}: loading samples {list(indices)[:3]}... failed: "
                f"{type(error).__name__}: {error}"
            ) from error

    def batches(self, order: Sequence[Sequence[int]], seed: int) -> Iterator[Batch]:
        """One batch per list of indices; random augmentation is drawn from (seed, position).

        The position is counted from the end of `order`, so that a resumed run, which passes the
        rest of the order, draws what the undisturbed run would have drawn.
        """
        batches = _Batches(self, order, seed)
        if self.workers:
            generator = torch.Generator().manual_seed(seed)
            yield from DataLoader(
                batches,
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                generator=generator,
            )
            return
        for position in range(len(order)):
            yield batches[position]

    def _as_batch(self, collated: Any) -> Batch:
        targets = None
        inputs = collated
        if isinstance(collated, (tuple, list)):
            inputs = collated[0]
            if len(collated) == 2:
                targets = collated[1]
            elif len(collated) > 2:
                raise DataError(
                    f"{self.name}: a sample has {len(collated)} parts, expected (input, target); "
                    "several inputs go into one tuple: ((input, input), target)"
                )
        inputs = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        if not inputs or not all(isinstance(value, Tensor) for value in inputs):
            kinds = ", ".join(type(value).__name__ for value in inputs)
            raise DataError(f"{self.name}: the inputs of a sample are {kinds}, expected tensors")
        return Batch(inputs, targets)

    def subset(self, indices: Sequence[int]) -> Data:
        return replace(self, dataset=Subset(self.dataset, list(indices)))

    def split(self, held_out: int, seed: int) -> tuple[Data, Data]:
        """Two disjoint parts, the second with `held_out` samples drawn at random."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return self.subset(sorted(order[held_out:])), self.subset(sorted(order[:held_out]))

    def fingerprint(self) -> str:
        """A hash of the length and of sixteen samples spread over the dataset."""
        places = sorted({int(place) for place in np.linspace(0, len(self) - 1, 16)})
        with seeded(0, 0):
            batch = self.batch(places)
        return key_of(len(self), batch.inputs, _plain(batch.targets))


class _Batches(Dataset[Batch]):
    """The batches of one order as a dataset: the same ones in any number of worker processes."""

    def __init__(self, data: Data, order: Sequence[Sequence[int]], seed: int) -> None:
        self._data, self._order, self._seed = data, order, seed

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Batch:
        with seeded(self._seed, len(self._order) - position):
            return self._data.batch(self._order[position])


def _as_it_is(batch: Any) -> Any:
    return batch


def _plain(targets: Any) -> Any:
    return torch.utils._pytree.tree_flatten(targets)[0]


def shuffled(count: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Index lists of one epoch: every sample at most once, full batches only where possible."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    full = count - count % batch if count >= batch else count
    return [order[start : start + batch] for start in range(0, full, batch)]


def in_order(count: int, batch: int) -> list[list[int]]:
    """Index lists over `count` samples in their order; the last one may be shorter."""
    return [list(range(start, min(start + batch, count))) for start in range(0, count, batch)]


class seeded:
    """All random number generators set from (seed, position) inside, restored outside."""

    def __init__(self, seed: int, position: int) -> None:
        self._seed = (seed * 1_000_003 + position) % 2**31

    def __enter__(self) -> None:
        self._states = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
        torch.manual_seed(self._seed)
        np.random.seed(self._seed)  # noqa: NPY002 - user datasets draw from the global generator
        random.seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._states[0])
        np.random.set_state(self._states[1])  # noqa: NPY002
        random.setstate(self._states[2])


__all__ = ["Batch", "Data", "Dataset", "in_order", "seeded", "shuffled"]
