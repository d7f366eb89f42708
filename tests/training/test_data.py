from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lanac.errors import DataError
from lanac.training.data import Batch, Data, in_order, seeded, shuffled
from lanac.training.inputs import FORMS

ACCEPTED = (
    "expected a torch Dataset of (input, target) pairs, a DataLoader over one, "
    "or a pair of tensors (inputs, targets)"
)
X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


class Augmented:
    """Draws from all three global generators, as users' datasets do."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002
        return torch.tensor([float(index), *noise]), index


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.inputs[0], other.inputs[0]) and torch.equal(one.targets, other.targets)


def message_of(source: Any) -> str:
    with pytest.raises(DataError) as caught:
        Data.of(source, "train_data()")
    return str(caught.value)


# Sources ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        TensorDataset(X, Y),
        [(x, y) for x, y in zip(X, Y.tolist(), strict=True)],
        DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True),
        Data.of((X, Y), "x"),
    ],
    ids=["tensors", "dataset", "list", "loader", "data"],
)
def test_accepted_sources(source: Any) -> None:
    data = Data.of(source, "train_data()")
    assert len(data) == 10
    batch = data.batch([1, 4])
    assert len(batch) == 2
    assert torch.equal(batch.inputs[0], X[[1, 4]])
    assert batch.targets.tolist() == [1, 4]


@pytest.mark.parametrize("source", [(X,), TensorDataset(X), X, list(X)])
def test_sources_without_labels(source: Any) -> None:
    batch = Data.of(source, "train_data()").batch([3])
    assert torch.equal(batch.inputs[0], X[[3]])
    assert batch.targets is None


def test_several_inputs_and_nested_targets() -> None:
    source = [((x, x + 1), {"box": x, "name": "n"}) for x in X]
    batch = Data.of(source, "train_data()").batch([0, 1])
    assert [tuple(value.shape) for value in batch.inputs] == [(2, 2), (2, 2)]
    assert torch.equal(batch.targets["box"], X[:2])
    assert batch.targets["name"] == ["n", "n"]


def test_a_loader_keeps_its_collation_and_workers() -> None:
    loader = DataLoader(
        TensorDataset(X, Y), num_workers=2, collate_fn=lambda s: (torch.stack([a for a, _ in s]), 7)
    )
    data = Data.of(loader, "train_data()")
    assert data.workers == 2
    assert data.batch([0, 1]).targets == 7


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([1])


@pytest.mark.parametrize(
    ("source", "kind"), [(3, "int"), (None, "NoneType"), (Stream(), "Stream"), (iter([1]), None)]
)
def test_what_cannot_be_indexed(source: Any, kind: str | None) -> None:
    name = kind or type(source).__name__
    assert message_of(source) == f"train_data() gave {name}, which cannot be indexed; {ACCEPTED}"


def test_a_loader_over_a_stream_cannot_be_indexed() -> None:
    assert message_of(DataLoader(Stream())) == (
        f"train_data() gave Stream, which cannot be indexed; {ACCEPTED}"
    )


@pytest.mark.parametrize("source", [[], (X[:0], Y[:0])], ids=["list", "tensors"])
def test_empty(source: Any) -> None:
    assert message_of(source) == f"train_data() is empty; {ACCEPTED}"


def test_lengths_that_differ() -> None:
    assert message_of((X, Y[:3])) == "train_data(): tensors of different lengths [3, 10]"


def test_three_parts() -> None:
    assert message_of((X, X, Y)) == (
        "train_data(): a sample has 3 parts, expected (input, target); "
        "several inputs go into one tuple: ((input, input), target)"
    )


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (("text", 1), f"train_data(): the inputs are str; expected {FORMS}"),
        (((X[0], "b"), 1), f"train_data(): the inputs are Tensor, tuple; expected {FORMS}"),
        ((), f"train_data(): the inputs are nothing; expected {FORMS}"),
        (
            ({"a": X[0], "b": "text"}, 1),
            "train_data(): input 'b' is list, expected a tensor. Make it one in the Dataset, or "
            "leave it out where the network does not need it.",
        ),
        (
            {"a": X[0], "label": 1, "labels": 1},
            "train_data(): a sample has both 'labels' and 'label'; expected one of them. Write the "
            "sample as (inputs, target).",
        ),
        (
            {"labels": 1},
            f"train_data(): the inputs are an empty dict; expected {FORMS}",
        ),
    ],
)
def test_inputs_that_are_no_tensors(sample: Any, message: str) -> None:
    assert message_of([sample]) == message


# Inputs by name ---------------------------------------------------------------------------------


class Network(nn.Module):
    """Two inputs and an option; their order is not that of the samples' dicts."""

    def forward(self, image: Tensor, mask: Tensor, *, scale: float = 1.0) -> Tensor:
        return image * mask * scale


@pytest.mark.parametrize(
    "sample",
    [({"mask": X[0], "image": X[1]}, 3), {"mask": X[0], "labels": 3, "image": X[1]}],
    ids=["pair", "dict as a whole"],
)
def test_a_dict_of_inputs_takes_the_order_of_forward(sample: Any) -> None:
    data = Data.of([sample] * 2, "train_data()")
    assert data.names == ("mask", "image")
    data = data.for_network(Network())
    assert data.names == ("image", "mask")
    batch = data.batch([0, 1])
    assert torch.equal(batch.inputs[0], X[[1, 1]])
    assert torch.equal(batch.inputs[1], X[[0, 0]])
    assert batch.targets.tolist() == [3, 3]
    train, held_out = data.split(1, 0)
    assert train.names == held_out.names == ("image", "mask")


@pytest.mark.parametrize("sample", [({"image": X[0]},), {"image": X[0]}])
def test_a_dict_of_inputs_without_labels(sample: Any) -> None:
    assert Data.of([sample], "x").batch([0]).targets is None


def test_a_collation_may_make_the_dict() -> None:
    def collate(samples: list[Any]) -> Any:
        return {"image": torch.stack([x for x, _ in samples]), "label": [y for _, y in samples]}

    data = Data.of(DataLoader(TensorDataset(X, Y), collate_fn=collate), "x")
    assert data.names == ("image",)
    assert data.batch([2]).targets == [torch.tensor(2)]


def test_inputs_by_position_have_no_names() -> None:
    data = Data.of((X, Y), "x")
    assert data.for_network(Network()) is data


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("image", "mask", "id"),
            "train_data(): a sample has the inputs 'image', 'mask', 'id', but Network.forward takes "
            "no 'id'; it takes 'image', 'mask', 'scale'. Remove from the samples what the network "
            "does not take, or rename it.",
        ),
        (
            ("mask",),
            "train_data(): a sample has the inputs 'mask', but Network.forward also needs 'image'. "
            "Add to the samples what is missing.",
        ),
    ],
)
def test_names_that_do_not_fit_forward(names: tuple[str, ...], message: str) -> None:
    data = Data.of([(dict.fromkeys(names, X[0]), 1)], "train_data()")
    with pytest.raises(DataError) as caught:
        data.for_network(Network())
    assert str(caught.value) == message


def test_a_later_sample_with_other_names() -> None:
    data = Data.of([({"image": X[0]}, 1), ({"picture": X[0]}, 1)], "train_data()")
    with pytest.raises(DataError) as caught:
        data.batch([1])
    assert str(caught.value) == (
        "train_data(): the inputs are a dict with 'picture'; expected a dict with 'image', as the "
        "first sample of train_data() has them"
    )


def test_a_dict_of_datasets() -> None:
    assert message_of({"train": [1], "test": [2]}) == (
        "train_data() gave a dict with the keys 'train', 'test', which cannot be indexed by number; "
        f"{ACCEPTED}. Give one of its values, or the samples one by one: each may be a dict."
    )


def test_a_list_of_images_is_no_batch() -> None:
    """As detection datasets are collated: a tuple of images of their own sizes."""
    samples = [(torch.zeros(3, 5, 7), {"boxes": torch.zeros(2, 4)})]
    loader = DataLoader(samples, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    assert message_of(loader) == (
        "train_data(): the inputs of a batch of 1 have the shapes (3, 5, 7); expected 1 samples "
        "along the first dimension of each. Lists of images of different sizes, as whole detectors "
        "take them, cannot be compiled: compile the detector's backbone, with samples of one size."
    )


def test_samples_of_different_shapes() -> None:
    data = Data.of([(torch.zeros(3, 5), 0), (torch.zeros(3, 7), 0)], "train_data()")
    with pytest.raises(DataError) as caught:
        data.batch([0, 1])
    assert str(caught.value) == (
        "train_data(): loading samples [0, 1]... failed: RuntimeError: stack expects each tensor to "
        "be equal size, but got [3, 5] at entry 0 and [3, 7] at entry 1. Samples of one batch need "
        "one shape: resize or pad them in the Dataset, or give a DataLoader whose collate_fn does it"
    )


def test_a_sample_that_fails_names_the_data_the_place_and_the_reason() -> None:
    class Broken(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            raise OSError(f"no file {index}.png")

    assert message_of(Broken([1])) == (
        "train_data(): loading samples [0]... failed: OSError: no file 0.png"
    )


# Orders -----------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_sample_at_most_once_in_full_batches(
    count: int, batch: int, seed: int, epoch: int
) -> None:
    order = shuffled(count, batch, seed, epoch)
    flat = [index for indices in order for index in indices]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(count))
    if count >= batch:
        assert {len(indices) for indices in order} == {batch}
        assert len(flat) > count - batch
    else:
        assert len(order) == 1 and len(flat) == count
    assert order == shuffled(count, batch, seed, epoch)


def test_epochs_and_seeds_differ() -> None:
    orders = [shuffled(50, 10, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4


@given(st.integers(0, 60), st.integers(1, 20))
def test_in_order_covers_everything_once(count: int, batch: int) -> None:
    order = in_order(count, batch)
    assert [index for indices in order for index in indices] == list(range(count))
    assert all(0 < len(indices) <= batch for indices in order)


# Batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_draws_the_same_augmentation(workers: int) -> None:
    source = DataLoader(Augmented(), num_workers=workers)
    data = Data.of(source, "train_data()")
    order = shuffled(12, 2, 0, 0)
    whole = list(data.batches(order, seed=3))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    rest = list(data.batches(order[4:], seed=3))
    assert len(rest) == 2
    assert all(equal(a, b) for a, b in zip(rest, whole[4:], strict=True))
    other = next(iter(data.batches(order, seed=4)))
    assert not torch.equal(other.inputs[0], whole[0].inputs[0])
    assert not torch.equal(whole[0].inputs[0][0, 1:], whole[1].inputs[0][0, 1:])


def test_workers_change_nothing() -> None:
    order = shuffled(12, 5, 0, 0)
    alone = Data.of(Augmented(), "x").batches(order, 1)
    helped = Data.of(DataLoader(Augmented(), num_workers=2), "x").batches(order, 1)
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_loading_leaves_the_global_generators_alone() -> None:
    with seeded(1, 1):
        expected = (float(torch.rand(())), float(np.random.rand()), random.random())  # noqa: NPY002
    data = Data.of(Augmented(), "x")
    with seeded(1, 1):
        list(data.batches([[0], [1]], 7))
        found = (float(torch.rand(())), float(np.random.rand()), random.random())  # noqa: NPY002
    assert found == expected


def test_to_moves_inputs_and_nested_targets() -> None:
    batch = Batch((X,), {"y": [Y], "n": 3}).to(torch.device("meta"))
    assert batch.inputs[0].is_meta
    assert batch.targets["y"][0].is_meta
    assert batch.targets["n"] == 3


# Parts ------------------------------------------------------------------------------------------


def test_a_split_is_disjoint_and_complete() -> None:
    train, held_out = Data.of((X, Y), "x").split(3, seed=0)
    ours = train.batch(range(len(train))).targets.tolist()
    theirs = held_out.batch(range(len(held_out))).targets.tolist()
    assert (len(ours), len(theirs)) == (7, 3)
    assert sorted(ours + theirs) == list(range(10))
    again, _ = Data.of((X, Y), "x").split(3, seed=0)
    assert again.batch(range(7)).targets.tolist() == ours
    assert train.name == "x"


def test_the_fingerprint_follows_the_samples() -> None:
    def of(x: Tensor, y: Tensor) -> str:
        return Data.of((x, y), "x").fingerprint()

    base = of(X, Y)
    assert of(X.clone(), Y.clone()) == base
    assert of(X[:9], Y[:9]) != base
    assert of(X + 1, Y) != base
    assert of(X, Y + 1) != base
    assert Data.of(TensorDataset(X, Y), "another name").fingerprint() == base


def test_the_fingerprint_of_random_samples_is_stable() -> None:
    prints = {Data.of(Augmented(), "x").fingerprint() for _ in range(3)}
    assert len(prints) == 1
