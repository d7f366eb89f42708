"""predict(): what latency a network would have on a device that is not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lanac.beginning import unlabelled_task
from lanac.ir import TensorSpec
from lanac.targets import parse_target
from lanac.targets.predicted import Anchor, Prediction, calibrate, way_of
from lanac.targets.predicted import predict as predict_module


def predict(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    train_data: Any = None,
    target: str,
    anchors: Sequence[Anchor] = (),
) -> Prediction:
    """Predicts a network's latency from its kernels and the device's figures; nothing is run.

    Args:
        model: the network; it need not be trained.
        example_inputs: a tensor, a tuple or a dict of tensors, batch first; default: from
            `train_data`. The target's batch takes the place of theirs.
        train_data: as for `compile`; only two samples are read.
        target: `DEVICE[:RUNTIME][:PRECISION][:bN][:tN]`, a device that `lanac` has figures of.
        anchors: networks that were measured on this target.

    Returns:
        The predicted latency with an interval, and what it rests on.

    Raises:
        LanacError: anything that is the user's to mend; the message says how.
    """
    parsed = parse_target(target)
    way = way_of(parsed)
    specs = input_specs(model, example_inputs, train_data)
    was_training = model.training
    model.eval()
    try:
        prediction = predict_module(model, specs, parsed)
    finally:
        model.train(was_training)
    return calibrate(anchors, way.errors).apply(prediction) if anchors else prediction


def input_specs(model: nn.Module, example_inputs: Any, train_data: Any) -> list[TensorSpec]:
    """Shapes and types of a network's inputs, in the order of its arguments.

    Raises:
        DataError: neither is given, or they are not tensors.
    """
    _, example = unlabelled_task(model, example_inputs, train_data)
    return [TensorSpec.of(tensor) for tensor in example]
