"""Target strings: `DEVICE[:RUNTIME][:PRECISION][:bN][:tN]`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lanac.errors import TargetError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_COUNT = re.compile(r"(?P<what>[bt])(?P<count>\d+)")


@dataclass(frozen=True)
class Target:
    """Where the student has to be fast.

    Attributes:
        device: name of a device, such as `cpu`.
        runtime: what executes the network there, such as `onnxruntime`.
        precision: number format: fp32, fp16, bf16, int8.
        batch: samples per inference.
        threads: threads of one inference; 1 where the device is no CPU.
    """

    device: str
    runtime: str
    precision: str
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.device}:{self.runtime}:{self.precision}:b{self.batch}:t{self.threads}"

    @property
    def short(self) -> str:
        """The parts that differ from the device's defaults, for names of folders: `cpu-b8`."""
        usual = parse_target(self.device)
        own = [
            (self.runtime, usual.runtime),
            (self.precision, usual.precision),
            (f"b{self.batch}", f"b{usual.batch}"),
            (f"t{self.threads}", f"t{usual.threads}"),
        ]
        return "-".join([self.device, *(ours for ours, default in own if ours != default)])


@cache
def devices() -> dict[str, dict[str, Any]]:
    """All known devices by name, from `devices.toml`."""
    text = files("lanac.targets").joinpath("devices.toml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = tomllib.loads(text)
    return loaded


def parse_target(text: str) -> Target:
    """Reads `--target`; parts may be left out, the device's defaults take their place.

    Raises:
        TargetError: an unknown device, runtime or precision (with the nearest known ones), or a
            batch or thread count below one.
    """
    name, *parts = text.strip().lower().split(":")
    if name not in devices():
        raise TargetError(f"target {text!r}: {unknown_name('device', name, devices())}")
    device = devices()[name]
    runtimes: dict[str, list[str]] = device["runtimes"]
    chosen: dict[str, Any] = {
        "runtime": next(iter(runtimes)),
        "precision": None,
        "b": device["batch"],
        "t": device["threads"],
    }
    for part in parts:
        _read_part(text, part, runtimes, chosen)
    precisions = runtimes[chosen["runtime"]]
    precision = chosen["precision"] or precisions[0]
    if precision not in precisions:
        raise TargetError(
            f"target {text!r}: {chosen['runtime']} on {name} computes in "
            f"{', '.join(precisions)}, not in {precision}"
        )
    return Target(name, chosen["runtime"], precision, chosen["b"], chosen["t"])


def _read_part(
    text: str, part: str, runtimes: dict[str, list[str]], chosen: dict[str, Any]
) -> None:
    count = _COUNT.fullmatch(part)
    if count is not None:
        if int(count["count"]) < 1:
            what = "batch" if count["what"] == "b" else "number of threads"
            raise TargetError(f"target {text!r}: the {what} must be at least 1, got {part!r}")
        chosen[count["what"]] = int(count["count"])
    elif part in runtimes:
        chosen["runtime"] = part
    elif part in PRECISIONS:
        chosen["precision"] = part
    else:
        known = [*runtimes, *PRECISIONS, "bN (batch)", "tN (threads)"]
        raise TargetError(f"target {text!r}: {unknown_name('part', part, known)}")
