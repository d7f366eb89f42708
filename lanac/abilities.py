"""abilities(): what can be measured, predicted, emitted and built here, for each device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lanac.backends.base import BACKENDS, RUNTIMES
from lanac.backends.from_onnx import FromOnnx
from lanac.errors import PredictionError
from lanac.targets import Device, Target, devices, parse_target
from lanac.targets.predicted import way_of


@dataclass(frozen=True)
class RuntimeAbility:
    """A runtime on a device.

    Attributes:
        name: the part of a target that asks for it.
        precisions: that it computes in there; the first is the default.
        unmeasured: why nothing can be measured with it here, None where it can.
        unpredicted: why its latencies cannot be predicted, None where they can.
    """

    name: str
    precisions: tuple[str, ...]
    unmeasured: str | None
    unpredicted: str | None


@dataclass(frozen=True)
class OutputAbility:
    """An output for a target.

    Attributes:
        name: what the user writes in `--emit`.
        unwritten: why it cannot be written here, None where it can.
        unbuilt: why only instructions for building what is meant are written, None where it is built.
    """

    name: str
    unwritten: str | None
    unbuilt: str | None


@dataclass(frozen=True)
class Ability:
    """What can be done here for a device.

    Attributes:
        device: what is known of it.
        target: what its outputs were looked at for.
        runtimes: of the device, the default first.
        outputs: all of them, by name.
    """

    device: Device
    target: Target
    runtimes: tuple[RuntimeAbility, ...]
    outputs: tuple[OutputAbility, ...]


def abilities(targets: Sequence[str] = ()) -> tuple[Ability, ...]:
    """What can be done here.

    Args:
        targets: names of devices or whole targets; default: all devices.

    Raises:
        TargetError: an unknown device or part of a target.
    """
    return tuple(_ability(parse_target(text)) for text in targets or devices())


def _ability(target: Target) -> Ability:
    device = target.entry
    return Ability(
        device=device,
        target=target,
        runtimes=tuple(
            _runtime(name, precisions, _with_runtime(target, name, precisions))
            for name, precisions in device.runtimes.items()
        ),
        outputs=tuple(_output(name, target) for name in BACKENDS.names()),
    )


def _with_runtime(target: Target, runtime: str, precisions: tuple[str, ...]) -> Target:
    own = target.precision if target.precision in precisions else precisions[0]
    version = target.tensorrt if runtime == target.runtime else None
    return replace(target, runtime=runtime, precision=own, tensorrt=version)


def _runtime(name: str, precisions: tuple[str, ...], target: Target) -> RuntimeAbility:
    unmeasured: str | None = f"lanac does not time {name}"
    if name in RUNTIMES.names():
        unmeasured = RUNTIMES.get(name).unavailable(target)
    unpredicted = None
    try:
        way_of(target)
    except PredictionError as error:
        unpredicted = str(error).removeprefix(f"target {str(target)!r}: ")
    return RuntimeAbility(name, precisions, unmeasured, unpredicted)


def _output(name: str, target: Target) -> OutputAbility:
    backend = BACKENDS.get(name)
    unwritten = backend.unavailable(target)
    unbuilt = None
    if unwritten is None and isinstance(backend, FromOnnx):
        unbuilt = backend.unbuilt(target)
    return OutputAbility(name, unwritten, unbuilt)
