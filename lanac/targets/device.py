"""Devices: what `devices.toml` says of them, and whether one is this machine's."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lanac.errors import TargetError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = ("cpu", "cuda")
"""Devices that stand for what this machine has."""


@dataclass(frozen=True)
class Figure:
    """A number about a device.

    Attributes:
        value: in the unit that its name ends with.
        source: where it is from.
    """

    value: float
    source: str


@dataclass(frozen=True)
class Device:
    """Something that networks run on.

    Attributes:
        name: what users write in `--target`.
        title: what people call it.
        kind: `cpu` or `gpu`.
        batch: samples per inference where the target names none.
        threads: threads of one inference where the target names none.
        runtimes: precisions by runtime; the first ones are the defaults.
        matches: parts of the name that the system gives it.
        capability: compute capability, such as (8, 6); None where it is no GPU, or `cuda`.
        last_tensorrt: the last TensorRT that supports it; None while the current one does.
        figures: peaks, bandwidth and sizes by name (`devices.toml` lists the names).
    """

    name: str
    title: str
    kind: str
    batch: int
    threads: int
    runtimes: Mapping[str, tuple[str, ...]]
    matches: tuple[str, ...]
    capability: tuple[int, int] | None
    last_tensorrt: tuple[int, int] | None
    figures: Mapping[str, Figure]

    def is_here(self) -> bool:
        """Whether this machine has the device. Asks CUDA, and so loads torch, for a GPU."""
        if self.name == "cpu":
            return True
        if self.kind == "cpu":
            return any(part in processor() for part in self.matches)
        found = cuda_device()
        return found is not None and (
            self.name == "cuda" or any(part in found for part in self.matches)
        )

    def absent(self) -> str | None:
        """Why nothing can be measured on the device here; None where it is this machine's."""
        if self.is_here():
            return None
        if self.kind == "cpu":
            return f"this machine's processor is no {self.title}"
        found = cuda_device()
        if found is None:
            return "this machine has no CUDA device that torch can use"
        return f"this machine's first CUDA device is {found}, no {self.title}"


@cache
def devices() -> dict[str, Device]:
    """All known devices by name, in the order of the file."""
    text = files("lanac.targets").joinpath("devices.toml").read_text(encoding="utf-8")
    loaded = tomllib.loads(text)
    sources = loaded.pop("sources")
    return {name: _device(name, entry, sources) for name, entry in loaded.items()}


def get_device(name: str) -> Device:
    """A device by name.

    Raises:
        TargetError: unknown, with the nearest names and how to add one.
    """
    if name not in devices():
        raise TargetError(
            f"{unknown_name('device', name, devices())} A device is an entry of "
            "lanac/targets/devices.toml; 'cpu' and 'cuda' stand for what this machine has"
        )
    return devices()[name]


def _device(name: str, entry: Mapping[str, Any], sources: Mapping[str, str]) -> Device:
    return Device(
        name=name,
        title=entry["title"],
        kind=entry["kind"],
        batch=entry["batch"],
        threads=entry["threads"],
        runtimes={runtime: tuple(known) for runtime, known in entry["runtimes"].items()},
        matches=tuple(entry.get("matches", ())),
        capability=_version(entry.get("capability")),
        last_tensorrt=_version(entry.get("last_tensorrt")),
        figures={
            figure: Figure(float(value), sources[source])
            for figure, (value, source) in entry.get("figures", {}).items()
        },
    )


def _version(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    major, minor = text.split(".")
    return int(major), int(minor)


@cache
def processor() -> str:
    """The model name of this machine's processor; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return ""
    pairs = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == "model name"), "")


@cache
def processor_fingerprint() -> str:
    """All that decides what a processor can do, beside its speed: maker, model, instructions."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags")
    lines = info.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    values = [value.strip() for name, _, value in pairs if name.strip() in wanted]
    return f"{platform.machine()} {';'.join(values)}"


@cache
def cuda_device() -> str | None:
    """The name of this machine's first CUDA device, None where there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
