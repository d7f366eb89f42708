"""What the comparison of an emitted file with its student lets through."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanac.backends.agreement import (
    Agreement,
    compare,
    difference,
    disagreement,
    same_predictions,
)
from lanac.backends.onnx import export_model, save_model
from lanac.backends.onnx_files import load_rounded, write_in_precision
from lanac.targets import Target, parse_target

CPU = parse_target("cpu:openvino")
ONE = torch.tensor([1.0, -4.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (ONE, ONE, 0.0),
        (ONE, torch.tensor([1.0, -3.0]), 0.25),
        (ONE[:0], ONE[:0], 0.0),
        (torch.tensor([True]), torch.tensor([False]), 1.0),
        (torch.tensor([2, 4]), torch.tensor([2, 3]), 0.25),
        (ONE, torch.tensor([1.0, math.nan]), math.inf),
        (torch.tensor([math.nan]), torch.tensor([math.nan]), math.inf),
        (torch.tensor([math.inf]), torch.tensor([math.inf]), math.inf),
        (ONE, ONE[None], math.inf),
        (ONE, ONE[:1], math.inf),
        (ONE, ONE.double(), math.inf),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_infinitely_far(
    ours: Tensor, theirs: Tensor, expected: float
) -> None:
    assert difference(ours, theirs) == expected


class Fake:
    """An output whose files compute what the test says."""

    name = "fake"

    def __init__(self, precision: str, run: Callable[..., tuple[Tensor, ...]]) -> None:
        self._precision, self._run = precision, run

    def precision(self, target: Target) -> str:
        return self._precision

    def load(self, files: tuple[Path, ...], target: Target) -> Callable[..., tuple[Tensor, ...]]:
        return self._run

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        return ("a note",)


LOGITS = torch.tensor([[1.0, 0.999], [0.0, 1.0], [0.5, 0.2], [0.1, 0.4]])


def student(x: Tensor) -> tuple[Tensor, ...]:
    return (LOGITS[: len(x)],)


def found(precision: str, change: Callable[[Tensor], Tensor], classes: bool = True) -> Agreement:
    backend: Any = Fake(precision, lambda x: (change(LOGITS[: len(x)].clone()),))
    return compare(backend, (), CPU, student, (torch.zeros(4, 1),), classes=classes)


def swapped(logits: Tensor) -> Tensor:
    logits[0] = logits[0].flip(0)
    return logits


def test_a_prediction_can_change_within_the_tolerance() -> None:
    agreement = found("fp16", swapped)
    assert agreement.error == pytest.approx(1e-3, rel=1e-3)
    assert agreement.error < agreement.tolerance
    assert agreement.same == 0.75
    assert not agreement.is_good
    assert str(agreement) == "in fp16 within 1.0e-03, 75.0 % of the predictions are the same"
    assert disagreement(agreement, "student.fp16.onnx", "real", None, (), CPU) == (
        "student.fp16.onnx does not agree with the student in fp16: 25.0 % of the predictions on 4 "
        "real inputs change, at most 5 % expected. Use bf16 or fp32: precision is a part of --target"
    )
    assert found("fp16", swapped, classes=False).is_good
    assert found("fp16", swapped, classes=False).same is None


@pytest.mark.parametrize(
    ("precision", "lets"), [("fp32", [0.0]), ("fp16", [0.0, 1e-3]), ("bf16", [0.0, 1e-3, 5e-2])]
)
def test_the_tolerance_fits_the_precision(precision: str, lets: list[float]) -> None:
    for error in (0.0, 1e-3, 5e-2, 0.5):
        agreement = found(precision, lambda x, error=error: x + error, classes=False)  # type: ignore[misc]
        assert agreement.is_good == (error in lets)


def test_fp32_that_does_not_agree_is_a_defect() -> None:
    agreement = found("fp32", lambda x: x * 1.5)
    assert disagreement(agreement, "student.onnx", "random", None, (), CPU) == (
        "student.onnx does not agree with the student: relative difference 5.00e-01 on 4 random "
        "inputs, at most 1e-04 expected. This is a defect of lanac, please report it"
    )


def test_an_overflow_is_named(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 1e5).relu() * 1e-5

    x = torch.ones(2, 3)
    exact, *_ = save_model(export_model(Large().eval(), (x,)), tmp_path)
    low, *_ = write_in_precision(exact, tmp_path, "fp16")
    backend: Any = Fake("fp16", load_rounded(low, "fp16"))
    agreement = compare(backend, (), CPU, lambda x: (Large()(x),), (x,), classes=False)
    assert not agreement.is_good
    text = disagreement(agreement, low.name, "real", exact, (x,), parse_target("v100"))
    assert re.fullmatch(
        r"student\.fp16\.onnx overflows: the largest value of fp16 is 65,504, and Mul 'node_mul\w*' "
        r"gives 1e\+05 \(relative difference 3\.44e-01 on 2 real inputs, at most 2e-02 expected\)\. "
        r"Use fp32: precision is a part of --target",
        text,
    )


def test_one_sample_alone_must_do_too() -> None:
    """A file whose batch is fixed to that of the export fails here."""

    def fixed(x: Tensor) -> tuple[Tensor, ...]:
        return (LOGITS,)

    agreement = compare(Fake("fp32", fixed), (), CPU, student, (torch.zeros(4, 1),), classes=True)  # type: ignore[arg-type]
    assert agreement.error == math.inf


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([LOGITS], [LOGITS], 1.0),
        ([torch.zeros(4)], [torch.zeros(4)], None),
        ([torch.zeros(4, 1)], [torch.zeros(4, 1)], None),
        ([LOGITS, LOGITS], [LOGITS, -LOGITS], 0.0),
        ([torch.eye(2)[None]], [torch.eye(2)[None].flip(1)], 0.0),
        ([torch.tensor([[1, 2]])], [torch.tensor([[2, 1]])], None),
    ],
)
def test_what_is_a_prediction(
    ours: list[Tensor], theirs: list[Tensor], expected: float | None
) -> None:
    assert same_predictions(ours, theirs) == expected
