"""Target strings: `DEVICE[:RUNTIME][:PRECISION][:bN][:tN]`; `tensorrt10.4` names a version too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lanac.errors import TargetError, unknown_name
from lanac.targets.device import Device, devices, get_device

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_COUNT = re.compile(r"(?P<what>[bt])(?P<count>\d+)")
_TENSORRT = re.compile(r"tensorrt(?P<major>\d+)(\.(?P<minor>\d+))?")


@dataclass(frozen=True)
class Target:
    """Where the student has to be fast.

    Attributes:
        device: name of a device, such as `cpu`.
        runtime: what executes the network there, such as `onnxruntime`.
        precision: number format: fp32, fp16, bf16, int8.
        batch: samples per inference.
        threads: threads of one inference; 1 where the device is no CPU.
        tensorrt: the version of TensorRT that the user asked for, None where any will do.
    """

    device: str
    runtime: str
    precision: str
    batch: int
    threads: int
    tensorrt: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.device}:{self._runtime}:{self.precision}:b{self.batch}:t{self.threads}"

    @property
    def _runtime(self) -> str:
        version = ".".join(map(str, self.tensorrt or ()))
        return f"{self.runtime}{version}"

    @property
    def entry(self) -> Device:
        """What is known of the device."""
        return get_device(self.device)

    @property
    def is_one_thread(self) -> bool:
        """Whether one thread of this process does the work, so that its CPU time is the latency."""
        return self.entry.kind == "cpu" and self.threads == 1

    @property
    def short(self) -> str:
        """The parts that differ from the device's defaults, for names of folders: `cpu-b8`."""
        usual = parse_target(self.device)
        own = [
            (self._runtime, usual.runtime),
            (self.precision, usual.precision),
            (f"b{self.batch}", f"b{usual.batch}"),
            (f"t{self.threads}", f"t{usual.threads}"),
        ]
        return "-".join([self.device, *(ours for ours, default in own if ours != default)])


def parse_target(text: str) -> Target:
    """Reads `--target`; parts may be left out, the device's defaults take their place.

    Raises:
        TargetError: an unknown device, runtime or precision (with the nearest known ones), or a
            batch or thread count below one.
    """
    name, *parts = text.strip().lower().split(":")
    try:
        device = get_device(name)
    except TargetError as error:
        raise TargetError(f"target {text!r}: {error}") from None
    chosen: dict[str, Any] = {
        "runtime": next(iter(device.runtimes)),
        "precision": None,
        "b": device.batch,
        "t": device.threads,
        "tensorrt": None,
    }
    for part in parts:
        _read_part(text, part, device, chosen)
    precisions = device.runtimes[chosen["runtime"]]
    precision = chosen["precision"] or precisions[0]
    if precision not in precisions:
        raise TargetError(
            f"target {text!r}: {chosen['runtime']} on {name} computes in "
            f"{', '.join(precisions)}, not in {precision}"
        )
    version = chosen["tensorrt"] if chosen["runtime"] == "tensorrt" else None
    return Target(name, chosen["runtime"], precision, chosen["b"], chosen["t"], version)


def _read_part(text: str, part: str, device: Device, chosen: dict[str, Any]) -> None:
    count = _COUNT.fullmatch(part)
    if count is not None:
        if int(count["count"]) < 1:
            what = "batch" if count["what"] == "b" else "number of threads"
            raise TargetError(f"target {text!r}: the {what} must be at least 1, got {part!r}")
        if count["what"] == "t" and device.kind != "cpu" and int(count["count"]) > 1:
            raise TargetError(
                f"target {text!r}: threads are for CPUs, {device.name} is a {device.kind.upper()}; "
                f"leave {part!r} out"
            )
        chosen[count["what"]] = int(count["count"])
        return
    version = _TENSORRT.fullmatch(part)
    if version is not None and "tensorrt" in device.runtimes:
        asked = int(version["major"]), int(version["minor"] or 0)
        last = device.last_tensorrt
        if last is not None and asked > last:
            raise TargetError(
                f"target {text!r}: TensorRT {asked[0]}.{asked[1]} does not support {device.title}; "
                f"the last one that does is {last[0]}.{last[1]}, and without a number that is taken"
            )
        chosen["runtime"], chosen["tensorrt"] = "tensorrt", asked
    elif part in device.runtimes:
        chosen["runtime"] = part
    elif part in PRECISIONS:
        chosen["precision"] = part
    elif part in _runtimes():
        raise TargetError(
            f"target {text!r}: {part} does not run on {device.name} ({device.title}); what does: "
            f"{', '.join(device.runtimes)}"
        )
    else:
        known = [*device.runtimes, *PRECISIONS, "bN (batch)", "tN (threads)"]
        raise TargetError(f"target {text!r}: {unknown_name('part', part, known)}")


def _runtimes() -> set[str]:
    """The runtimes of all devices."""
    return {runtime for device in devices().values() for runtime in device.runtimes}
