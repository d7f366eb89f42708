"""What is said of a student's latency: measured, predicted or imported, never one for the other."""

from __future__ import annotations

import math
from typing import Any

from lanac.compilation import Compilation, Outputs
from lanac.targets import ENERGY, LATENCY, TITLES, Timing, format_cost
from lanac.targets.predicted import Prediction, ratio_spread, way_of
from lanac.targets.predicted.prediction import SIGMAS

PREDICTED = "latency (PREDICTED)"
MEASURED = "latency (measured)"


def latency_row(compilation: Compilation) -> tuple[str, str, str, str] | None:
    """(what, teacher, student, ratio); None where nothing is known of the latency."""
    outputs: Outputs = compilation.need("outputs")
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
    how = compilation.need("costs").how[LATENCY]
    return f"latency (sum of parts, {how})", *texts, f"{after / before:.3f}x"


def how_known(compilation: Compilation) -> str:
    """What is added to the verdict where it does not rest on whole networks that were measured."""
    outputs: Outputs = compilation.need("outputs")
    limited = set(compilation.budget.resources)
    if LATENCY in limited and outputs.predictions is not None:
        return f", as PREDICTED ({predicted_ratio(outputs)}), not measured"
    unseen = [
        name for name in (LATENCY, ENERGY) if name in limited and not outputs.is_measured(name)
    ]
    if not unseen:
        return ""
    how = compilation.need("costs").how[unseen[0]]
    names = " and ".join(TITLES[name] for name in unseen)
    return f" by sums of {how} {names}; nothing was measured as a whole"


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
        clock = "; they are the CPU time of one thread" * target.is_one_thread
        return [
            f"Latencies are medians (with quartiles) of teacher and student on {target}, interleaved "
            f"in one run, each opened several times{clock}."
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
    notes = [f"Teacher and student were not timed as whole networks: {outputs.untimed}."]
    if LATENCY in outputs.costs:
        notes.append(measure_there(compilation))
    return notes


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
            "latency": timing_record(outputs.latency),
            "teacher_latency": timing_record(outputs.teacher_latency),
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
    how = compilation.need("costs").how.get(LATENCY, "unknown")
    return {"how": how, "untimed": outputs.untimed}


def timing_record(timing: Timing | None) -> dict[str, float] | None:
    """A measurement as plain values."""
    return dict(vars(timing)) if timing is not None else None


def _prediction(prediction: Prediction) -> dict[str, float]:
    return {
        "latency_ms": prediction.latency_ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
    }
