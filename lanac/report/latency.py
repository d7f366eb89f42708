"""What is said of a student's latency: measured, predicted or imported, never one for the other."""

from __future__ import annotations

import math
from typing import Any

from lanac.compilation import Compilation, Outputs
from lanac.targets import LATENCY, Timing, format_cost
from lanac.targets.predicted import Prediction, ratio_spread, way_of
from lanac.targets.predicted.prediction import SIGMAS

PREDICTED = "latency (PREDICTED)"
IMPORTED = "latency (sum of an imported table)"
MEASURED = "latency (measured)"


def latency_row(outputs: Outputs) -> tuple[str, str, str, str] | None:
    """(what, teacher, student, ratio); None where nothing is known of the latency."""
    if outputs.latency is not None and outputs.teacher_latency is not None:
        ratio = outputs.latency.median_ms / outputs.teacher_latency.median_ms
        return MEASURED, str(outputs.teacher_latency), str(outputs.latency), f"{ratio:.3f}x"
    if outputs.predictions is not None:
        student, teacher = outputs.predictions
        return PREDICTED, interval(teacher), interval(student), predicted_ratio(outputs)
    if LATENCY not in outputs.costs:
        return None
    before, after = outputs.teacher_costs[LATENCY], outputs.costs[LATENCY]
    texts = format_cost(LATENCY, before), format_cost(LATENCY, after)
    return IMPORTED, *texts, f"{after / before:.3f}x"


def interval(prediction: Prediction) -> str:
    """`about 3.1 ms (2.3 to 4.2)`."""
    low, middle, high = (
        f"{ms:.3g}" for ms in (prediction.low_ms, prediction.latency_ms, prediction.high_ms)
    )
    return f"about {middle} ms ({low} to {high})"


def predicted_ratio(outputs: Outputs) -> str:
    """`0.49x +-7 %`: the student's predicted latency relative to the teacher's."""
    assert outputs.predictions is not None
    student, teacher = outputs.predictions
    ratio = student.latency_ms / teacher.latency_ms
    return f"{ratio:.3f}x +-{100 * ratio_error(student, teacher):.0f} %"


def ratio_error(student: Prediction, teacher: Prediction) -> float:
    """How far the predicted ratio is off at most, in nine of ten cases as far as is known."""
    spread = ratio_spread(teacher, student, way_of(teacher.target).errors)
    return math.expm1(SIGMAS * spread)


def latency_notes(compilation: Compilation) -> list[str]:
    """How the latencies above came about, in sentences."""
    outputs: Outputs = compilation.need("outputs")
    target = compilation.target
    if outputs.latency is not None:
        clock = "; CPU time of one thread" if target.is_one_thread else ""
        return [
            "Latencies are medians (with quartiles) of teacher and student, from files of the same "
            f"kind, interleaved in one run on {target}{clock}."
        ]
    if outputs.predictions is not None:
        student, _ = outputs.predictions
        probability = compilation.need("chosen").probability
        notes = [
            f"NO LATENCY WAS MEASURED: {target.entry.title} is not here. Latencies are predicted from "
            "the kernels of the networks and the figures of the device; the intervals hold nine of "
            f"ten measured networks, as far as is known. This rests on: {student.evidence}.",
        ]
        if probability is not None:
            notes.append(
                f"The plan meets the budget in {probability:.0%} of the cost tables that differ by "
                "the errors which such predictions make."
            )
        if student.anchors:
            notes.append(
                f"Brought to the scale of what was measured: {', '.join(student.anchors)}."
            )
        return [*notes, measure_there(compilation)]
    if LATENCY in outputs.costs:
        return [
            f"NO WHOLE NETWORK WAS TIMED: {target} is not here. Latencies are sums over the imported "
            f"cost table. {measure_there(compilation)}"
        ]
    return []


def is_unmeasured(compilation: Compilation) -> bool:
    """Whether a latency is limited that was not measured on whole networks."""
    outputs: Outputs = compilation.need("outputs")
    return LATENCY in compilation.budget.resources and outputs.latency is None


def measure_there(compilation: Compilation) -> str:
    """What to do on the device itself."""
    return (
        f"To know, run `lanac bench` on this folder there, or measure a cost table there with "
        f"`lanac measure --target {compilation.target}` and compile again with `--costs`."
    )


def latency_record(compilation: Compilation) -> dict[str, Any]:
    """The latencies for programs; `how` says where they are from."""
    outputs: Outputs = compilation.need("outputs")
    if outputs.latency is not None and outputs.teacher_latency is not None:
        return {
            "how": "measured",
            "latency": _timing(outputs.latency),
            "teacher_latency": _timing(outputs.teacher_latency),
        }
    if outputs.predictions is not None:
        student, teacher = outputs.predictions
        return {
            "how": "predicted",
            "latency": _prediction(student),
            "teacher_latency": _prediction(teacher),
            "ratio": student.latency_ms / teacher.latency_ms,
            "ratio_error": ratio_error(student, teacher),
            "evidence": student.evidence,
            "anchors": list(student.anchors),
            "budget_probability": compilation.need("chosen").probability,
        }
    return {"how": "imported" if LATENCY in outputs.costs else "unknown"}


def _timing(timing: Timing) -> dict[str, float]:
    return dict(vars(timing))


def _prediction(prediction: Prediction) -> dict[str, float]:
    return {
        "latency_ms": prediction.latency_ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
    }
