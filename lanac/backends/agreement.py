"""Whether an emitted file computes what the student computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lanac.backends._precision import LARGEST
from lanac.backends.base import Backend, Runner
from lanac.backends.onnx_files import first_overflow
from lanac.targets import Target

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.5e-1}
"""Largest difference, relative to the largest output, by the precision that the files compute in.

Another runtime adds in another order. fp16 keeps 11 bits and bf16 8, and some fifty layers add up
what each of them rounds away."""

_SAME_KERNELS = {"pytorch": 1e-6}
"""The emitted source runs the kernels of the student and has to agree almost to the bit."""

_SAME = {"fp32": 0.99, "fp16": 0.95, "bf16": 0.9}
"""Least share of samples (or pixels) whose most likely class is the student's."""


@dataclass(frozen=True)
class Agreement:
    """How an output compares with the student.

    Attributes:
        precision: that the output computes in.
        error: largest difference relative to the largest value, over all outputs; infinite where
            they cannot be compared.
        tolerance: what is let through.
        same: share of predictions that are the student's; None where the network gives no classes.
        samples: how many it was compared on.
        notes: what was not verified, and what the user has to do or to know.
    """

    precision: str
    error: float
    tolerance: float
    same: float | None
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the output may be called the student."""
        enough = self.same is None or self.same >= _SAME[self.precision]
        return self.error <= self.tolerance and enough

    def __str__(self) -> str:
        text = f"within {self.error:.1e}"
        if self.precision != "fp32":
            text = f"in {self.precision} {text}"
        if self.same is None:
            return text
        return f"{text}, {100 * self.same:.1f} % of the predictions are the same"


@torch.no_grad()
def compare(
    backend: Backend,
    files: tuple[Path, ...],
    target: Target,
    student: Runner,
    inputs: tuple[Tensor, ...],
    *,
    classes: bool,
) -> Agreement:
    """Runs what was emitted beside the student, on one sample and on all: the batch must be free.

    Args:
        backend: what wrote the files.
        files: as it returned them.
        target: what they are for.
        student: what they have to agree with.
        inputs: samples.
        classes: whether what the network gives are classes, so that predictions can be compared.
    """
    run = backend.load(files, target)
    precision = backend.precision(target)
    worst, same = 0.0, None
    for count in sorted({1, len(inputs[0])}):
        some = tuple(value[:count] if len(value) == len(inputs[0]) else value for value in inputs)
        expected, actual = student(*some), run(*some)
        worst = max(worst, *(difference(a, b) for a, b in zip(expected, actual, strict=True)))
        same = same_predictions(expected, actual) if classes else None
    tolerance = _SAME_KERNELS.get(backend.name, TOLERANCES[precision])
    notes = backend.notes(files, target)
    return Agreement(precision, worst, tolerance, same, len(inputs[0]), notes)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value; infinite where they cannot be compared."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    if not ours.numel():
        return 0.0
    ours, theirs = ours.double(), theirs.double()
    worst = float((ours - theirs).abs().max()) / max(float(ours.abs().max()), 1e-12)
    return worst if math.isfinite(worst) else math.inf  # nan is above nothing


def same_predictions(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float | None:
    """Share of predictions (classes in dimension 1) that are the same; None where there are none."""
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        if a.dim() >= 2 and a.shape == b.shape and a.shape[1] > 1 and a.is_floating_point():
            shares.append(float((a.argmax(1) == b.argmax(1)).double().mean()))
    return min(shares) if shares else None


def disagreement(
    agreement: Agreement,
    name: str,
    kind: str,
    exact: Path | None,
    inputs: tuple[Tensor, ...],
    target: Target,
) -> str:
    """Sentences on an output that is not good: how far it is off, where it may come from, what to do.

    Args:
        agreement: what was found.
        name: of the file.
        kind: of the inputs, such as `real`.
        exact: the student as an fp32 ONNX file, to look for what overflows.
        inputs: what they were compared on.
        target: what the output is for.
    """
    precision, samples = agreement.precision, f"{agreement.samples} {kind} inputs"
    if agreement.error <= agreement.tolerance:
        found = _changed_predictions(agreement, samples)
    else:
        found = (
            f"relative difference {agreement.error:.2e} on {samples}, at most "
            f"{agreement.tolerance:.0e} expected"
        )
    if precision == "fp32":
        return (
            f"{name} does not agree with the student: {found}. This is a defect of lanac, please "
            "report it"
        )
    known = {other for some in target.entry.runtimes.values() for other in some}
    better = sorted(known & {"fp32", "bf16"} - {precision}) or ["fp32"]
    advice = f"Use {' or '.join(better)}: precision is a part of --target"
    where = None
    if exact is not None and not agreement.error <= agreement.tolerance:
        where = first_overflow(exact, tuple(value[:1] for value in inputs), precision)
    if where is None:
        return f"{name} does not agree with the student in {precision}: {found}. {advice}"
    return (
        f"{name} overflows: the largest value of {precision} is {LARGEST[precision]:,.5g}, and "
        f"{where} ({found}). {advice}"
    )


def _changed_predictions(agreement: Agreement, samples: str) -> str:
    same, least = agreement.same or 0.0, _SAME[agreement.precision]
    return (
        f"{100 * (1 - same):.1f} % of the predictions on {samples} change, at most "
        f"{100 * (1 - least):.0f} % expected"
    )
