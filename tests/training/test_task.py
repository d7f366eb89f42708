from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lanac.errors import DataError
from lanac.training.data import Batch, Data
from lanac.training.task import Task, check_outputs, logit_distillation, output_distance

DATA = Data.of((torch.zeros(4, 2), torch.zeros(4)), "train_data()")
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [5.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 1])
ADVICE = "Give labels that fit, or define loss(outputs, targets) in the model file."


def task(loss: Any = None, metric: Any = None, labelled: bool = True) -> Task:
    return Task(DATA, DATA, DATA, loss, metric, labelled)


def batch(targets: Any = LABELS) -> Batch:
    return Batch((torch.zeros(4, 2),), targets)


def message_of(checked: Task, outputs: Any, targets: Any) -> str:
    with pytest.raises(DataError) as caught:
        checked.check(outputs, batch(targets))
    return str(caught.value)


def negative_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(outputs.argmax(1) != targets).float().mean()


def test_defaults_are_cross_entropy_and_top_1() -> None:
    default = task()
    assert default.loss(LOGITS, batch(), None) == F.cross_entropy(LOGITS, LABELS)
    assert default.metric(LOGITS, batch(), None) == 75.0
    assert default.metric_name == "top-1"
    default.check(LOGITS, batch())


def test_the_users_own_loss_and_metric() -> None:
    own = task(lambda outputs, targets: 3, negative_error)
    assert own.loss(LOGITS, batch(), None) == torch.tensor(3)
    assert own.metric(LOGITS, batch(), None) == -0.25
    assert own.metric_name == "negative_error"


def test_without_labels_the_teacher_is_the_measure() -> None:
    unlabelled = task(labelled=False)
    teacher = LOGITS.roll(1, 1)
    assert unlabelled.loss(LOGITS, batch(None), LOGITS) == 0
    assert unlabelled.loss(LOGITS, batch(None), teacher) == output_distance(LOGITS, teacher)
    assert unlabelled.metric(LOGITS, batch(None), LOGITS) == 100.0
    assert unlabelled.metric(LOGITS, batch(None), teacher) == 0.0
    assert unlabelled.metric_name == "agreement"
    unlabelled.check(LOGITS, batch(None))


def test_without_labels_a_metric_of_labels_is_not_used_nor_named() -> None:
    unlabelled = task(metric=negative_error, labelled=False)
    assert unlabelled.metric(LOGITS, batch(None), LOGITS) == 100.0
    assert unlabelled.metric_name == "agreement"


@pytest.mark.parametrize(
    ("outputs", "teacher"),
    [
        ({"a": LOGITS, "b": LOGITS * 3}, {"a": LOGITS, "b": LOGITS * 2}),
        (LOGITS[:, 0] * 1.5, LOGITS[:, 0]),
        (LOGITS[:, :1] * 1.5, LOGITS[:, :1]),
    ],
    ids=["several tensors", "no classes", "one class"],
)
def test_outputs_without_one_class_axis_agree_by_their_variance(outputs: Any, teacher: Any) -> None:
    unlabelled = task(labelled=False)
    expected = 100 * (1 - float(output_distance(outputs, teacher)))
    assert 0 < expected < 100
    assert unlabelled.metric(outputs, batch(None), teacher) == pytest.approx(expected)
    assert unlabelled.metric(teacher, batch(None), teacher) == 100.0
    far = {"a": LOGITS, "b": -9 * LOGITS} if isinstance(outputs, dict) else -9 * outputs
    assert unlabelled.metric(far, batch(None), teacher) == 0.0


@pytest.mark.parametrize("wrapped", [{"logits": LOGITS}, (LOGITS,), {"out": [LOGITS], "n": 3}])
def test_the_default_loss_takes_one_tensor_out_of_its_structure(wrapped: Any) -> None:
    default = task()
    assert default.loss(wrapped, batch(), None) == F.cross_entropy(LOGITS, LABELS)
    assert default.metric(wrapped, batch(), None) == 75.0


def test_the_users_own_loss_gets_the_structure_as_it_is() -> None:
    outputs = {"logits": LOGITS}
    seen = []
    task(lambda outputs, targets: seen.append(outputs) or 1.0).loss(outputs, batch(), None)
    assert seen[0] is outputs


def outputs_message(outputs: Any, of_one: Any) -> str:
    with pytest.raises(DataError) as caught:
        check_outputs(outputs, of_one, "the first samples of train_data()")
    return str(caught.value)


def test_outputs_that_are_numbers_pass() -> None:
    for outputs in (LOGITS, {"a": LOGITS, "places": LABELS}, [LOGITS, (LOGITS,), None]):
        check_outputs(outputs, outputs, "x")


def test_outputs_without_numbers_to_learn_from() -> None:
    where = "on the first samples of train_data(); expected tensors of floating point numbers"
    more = (
        ", alone or in tuples, lists, dicts, NamedTuples or dataclasses. Return scores instead of "
        "the classes or boxes that follow from them."
    )
    assert outputs_message({"c": LABELS}, {"c": LABELS}) == (
        f"the model returns c: torch.int64 {where}{more}"
    )
    assert outputs_message("text", "text") == f"the model returns str {where}{more}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_no_numbers(value: float) -> None:
    broken = LOGITS.clone()
    broken[1, 1:] = value
    outputs = {"fine": LOGITS, "broken": broken}
    assert outputs_message(outputs, outputs) == (
        "the teacher's output 'broken' of shape (4, 3) has 2 values that are NaN or infinite, on "
        "the first samples of train_data(); expected finite numbers. Check the weights that model() "
        "loads and the normalisation of the inputs."
    )


def test_outputs_image_by_image() -> None:
    """As a detector's: one dict per image."""
    one = [{"boxes": LOGITS, "scores": LOGITS[:, 0]}]
    assert outputs_message(one * 3, one) == (
        "the model returns other outputs for several samples (output_0.boxes, output_0.scores, "
        "output_1.boxes, output_1.scores, ...) than for one (output_0.boxes, output_0.scores), on "
        "the first samples of train_data(). Detectors that select boxes image by image do that; "
        "they cannot be compiled as a whole. Compile the part that returns the same tensors for any "
        "batch: the detector's backbone (model.backbone), perhaps with its head."
    )


def test_labels_that_do_not_fit_the_default_loss() -> None:
    assert message_of(task(), LOGITS, torch.tensor([0, 1, 2, 3])) == (
        "the default loss, cross-entropy, fails on the network's outputs ((4, 3) torch.float32) "
        "and the labels of train_data() ((4,) torch.int64 from 0 to 3): "
        f"Target 3 is out of bounds. {ADVICE}"
    )


def test_outputs_that_do_not_fit_the_default_loss() -> None:
    got = message_of(task(), [LOGITS, LOGITS[:, :1]], LABELS)
    assert got.startswith(
        "the default loss, cross-entropy, fails on the network's outputs "
        "((4, 3) torch.float32, (4, 1) torch.float32) and the labels of train_data() "
        "((4,) torch.int64 from 0 to 2): TypeError: "
    )
    assert got.endswith(ADVICE)


def test_a_users_loss_that_fails_without_a_word() -> None:
    def loss(outputs: Any, targets: Any) -> Tensor:
        raise AssertionError

    assert message_of(task(loss), LOGITS, "text") == (
        "loss() fails on the network's outputs ((4, 3) torch.float32) and the labels of "
        f"train_data() (str): AssertionError: no message. {ADVICE}"
    )


def test_a_loss_that_is_no_scalar() -> None:
    assert message_of(task(lambda outputs, targets: outputs.mean(1)), LOGITS, LABELS) == (
        "loss() returned a tensor of shape (4,), expected a scalar: the mean over the batch"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number(value: float) -> None:
    assert message_of(task(lambda outputs, targets: value), LOGITS, LABELS) == (
        f"the teacher's loss on a batch of train_data() is {value}; "
        "check the weights that model() loads, the normalisation of the inputs, the labels"
    )


def test_the_distance_of_outputs_is_relative_and_averaged_over_tensors() -> None:
    reference = {"a": torch.tensor([0.0, 2.0]), "b": [torch.tensor([0.0, 20.0])]}
    outputs = {"a": torch.tensor([1.0, 2.0]), "b": [torch.tensor([0.0, 10.0])]}
    # variances 1 and 100, squared errors 0.5 and 50
    assert output_distance(outputs, reference) == torch.tensor(0.5)
    assert output_distance(reference, reference) == 0


def test_the_distance_ignores_integers_and_survives_constant_outputs() -> None:
    ones = torch.ones(3)
    distance = output_distance((ones, torch.tensor(3)), (ones, torch.tensor(5)))
    assert distance == 0
    assert torch.isfinite(output_distance((ones * 2,), (ones,)))


def test_no_gradient_reaches_the_reference() -> None:
    ours = torch.zeros(4, 3, requires_grad=True)
    theirs = LOGITS.clone().requires_grad_()
    softened = logit_distillation(ours, theirs, 2.0)
    assert softened is not None
    (output_distance(ours, theirs) + softened).backward()
    assert ours.grad is not None
    assert theirs.grad is None


def test_distillation_of_logits_is_the_divergence_by_hand() -> None:
    ours = LOGITS.roll(1, 1)
    temperature = 2.0
    p, q = (LOGITS / temperature).softmax(1), (ours / temperature).softmax(1)
    by_hand = (p * (p / q).log()).sum(1).mean() * temperature**2
    found = logit_distillation(ours, LOGITS, temperature)
    assert found is not None
    assert torch.allclose(found, by_hand)
    assert float(logit_distillation(LOGITS, LOGITS, 4.0) or 0) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("outputs", [{"a": LOGITS}, LOGITS[:, :1], LOGITS[None], [LOGITS]])
def test_what_is_no_logits_is_not_softened(outputs: Any) -> None:
    assert logit_distillation(outputs, outputs, 2.0) is None
