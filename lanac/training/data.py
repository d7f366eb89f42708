"""The user's data behind one small interface: batches by index, reproducible and resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from lanac.errors import DataError
from lanac.training.inputs import forward_order, in_one_order
from lanac.workspace import key_of

_ACCEPTED = (
    "expected a torch Dataset of (input, target) pairs, a DataLoader over one, "
    "or a pair of tensors (inputs, targets)"
)


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of one step.

    Attributes:
        inputs: tensors (B, ...), one per input of the network, in the order of its `forward`.
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

    A sample is `(inputs, target)`, or inputs alone. Inputs are a tensor, a tuple of tensors, or a
    dict of tensors by the names of the arguments of the network's `forward`. A sample that is a
    dict as a whole has its target under `labels` or `label`.

    Attributes:
        dataset: has `__len__` and `__getitem__`.
        collate: a list of samples to one batch.
        workers: worker processes that load samples, taken from the user's DataLoader.
        name: what the user calls it, for messages: "train_data()".
        names: the arguments that the inputs are for, in their order; () where they are given by
            position.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    workers: int
    name: str
    names: tuple[str, ...] = ()

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
        if isinstance(dataset, Mapping):
            keys = ", ".join(repr(key) for key in dataset)
            raise DataError(
                f"{data.name} gave a dict with the keys {keys}, which cannot be indexed by number; "
                f"{_ACCEPTED}. Give one of its values, or the samples one by one: each may be a "
                "dict."
            )
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise DataError(
                f"{data.name} gave {type(dataset).__name__}, which cannot be indexed; {_ACCEPTED}"
            )
        if len(dataset) == 0:
            raise DataError(f"{data.name} is empty; {_ACCEPTED}")
        inputs, _ = data._parts(data._collated([0]))
        data = replace(data, names=tuple(inputs) if isinstance(inputs, Mapping) else ())
        data.batch([0])
        return data

    def for_network(self, model: nn.Module) -> Data:
        """The same data with inputs in the order of the model's `forward`.

        Raises:
            DataError: inputs are given by names that `forward` does not take, or too few.
        """
        if not self.names:
            return self
        return replace(self, names=forward_order(model, self.names, self.name))

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices as one batch; DataError where a sample has a wrong form."""
        inputs, targets = self._parts(self._collated(indices))
        tensors = in_one_order(inputs, self.names, self.name)
        for tensor in tensors:
            if tensor.shape[:1] != (len(indices),):
                raise DataError(self._no_batch(tensors, len(indices)))
        return Batch(tensors, targets)

    def _collated(self, indices: Sequence[int]) -> Any:
        try:
            samples = [self.dataset[index] for index in indices]
            return self.collate(samples)
        except Exception as error:
            advice = ""
            if "equal size" in str(error):
                advice = (
                    ". Samples of one batch need one shape: resize or pad them in the Dataset, or "
                    "give a DataLoader whose collate_fn does it"
                )
            raise DataError(
                f"{self.name}: loading samples {list(indices)[:3]}... failed: "
                f"{type(error).__name__}: {error}{advice}"
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

    def _parts(self, collated: Any) -> tuple[Any, Any]:
        """Inputs and targets of what collation gave; targets are None without labels."""
        if isinstance(collated, Mapping):
            keys = [key for key in ("labels", "label") if key in collated]
            if len(keys) == 2:
                raise DataError(
                    f"{self.name}: a sample has both 'labels' and 'label'; expected one of them. "
                    "Write the sample as (inputs, target)."
                )
            inputs = {key: value for key, value in collated.items() if key not in keys}
            return inputs, collated[keys[0]] if keys else None
        if not isinstance(collated, (tuple, list)):
            return collated, None
        if len(collated) > 2:
            raise DataError(
                f"{self.name}: a sample has {len(collated)} parts, expected (input, target); "
                "several inputs go into one tuple: ((input, input), target)"
            )
        return collated[0] if collated else (), collated[1] if len(collated) == 2 else None

    def _no_batch(self, tensors: Sequence[Tensor], count: int) -> str:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        return (
            f"{self.name}: the inputs of a batch of {count} have the shapes {shapes}; expected "
            f"{count} samples along the first dimension of each. Lists of images of different "
            "sizes, as whole detectors take them, cannot be compiled: compile the detector's "
            "backbone, with samples of one size."
        )

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
