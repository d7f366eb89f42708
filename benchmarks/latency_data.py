"""Public latencies and the kernels of the networks that they belong to: what the fit reads.

    rows = read_rows(Path("fit.csv"))
    kernels = KernelStore(Path("kernels.jsonl"))      # records what is missing, keeps it

A network's kernels are recorded once, for a batch that is a large prime: what it divides grows with
the batch, everything else stays.
"""

from __future__ import annotations

import csv
import json
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the path comes first

from lanac.ir import TensorSpec  # noqa: E402
from lanac.targets.predicted.kernels import (  # noqa: E402
    Kernel,
    KernelList,
    Operand,
    record_kernels,
)
from lanac.targets.predicted.work import Work  # noqa: E402

PRIME = 10007
"""The batch that is recorded; nothing is computed, so that it may be as large as it likes."""


@dataclass(frozen=True)
class Row:
    """One measured latency.

    Attributes:
        setup: what measured it: device, runtime, framework, precision, layout.
        model: `timm:NAME` or `torchvision:NAME`.
        family: the module of timm that defines it.
        batch: samples.
        img: pixels of a side.
        latency_ms: of the whole batch.
    """

    device: str
    runtime: str
    framework: str
    precision: str
    layout: str
    source: str
    model: str
    family: str
    batch: int
    img: int
    latency_ms: float

    @property
    def setup(self) -> tuple[str, ...]:
        return self.device, self.runtime, self.framework, self.precision, self.layout, self.source


def read_rows(path: Path) -> list[Row]:
    """The rows of fit.csv that name a network."""
    with path.open(encoding="utf-8") as file:
        return [
            Row(
                r["device"], r["runtime"], r["framework"], r["precision"], r["layout"], r["source"],
                f"{r['lib']}:{r['model']}", r["family"], int(r["batch"]), int(r["img"]),
                float(r["latency_ms"]),
            )
            for r in csv.DictReader(file)
            if r["model"]
        ]  # fmt: skip


class KernelStore:
    """Kernel lists by network and image size, kept in a file of JSON lines.

    Args:
        path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lists: dict[tuple[str, int], tuple[Any, ...] | str] = {}
        if path is not None and path.exists():
            with path.open(encoding="utf-8") as file:
                for line in file:
                    name, img, value = json.loads(line)
                    self._lists[name, img] = value

    def record(self, networks: Iterable[tuple[str, int]], seconds: float = 1e9) -> int:
        """Records what is missing; a network that cannot be built or run is kept as its reason.

        Args:
            networks: name and image size.
            seconds: of computing, after which it stops.

        Returns:
            How many are still missing.
        """
        missing = [key for key in dict.fromkeys(networks) if key not in self._lists]
        end = time.process_time() + seconds
        for done, (name, img) in enumerate(missing):
            if time.process_time() > end:
                return len(missing) - done
            value: Any
            try:
                value = _plain(record_network(name, img))
            except (
                Exception
            ) as error:  # what other packages raise for one network is its own affair
                value = (
                    f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
            self._lists[name, img] = value
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, img, value], separators=(",", ":")) + "\n")
        return 0

    def count(self) -> int:
        """How many networks and sizes have kernels."""
        return sum(not isinstance(value, str) for value in self._lists.values())

    def failures(self) -> Iterator[tuple[str, int, str]]:
        for (name, img), value in self._lists.items():
            if isinstance(value, str):
                yield name, img, value

    def get(self, name: str, img: int, batch: int) -> KernelList | None:
        """The kernels at a batch; None where they could not be recorded."""
        value = self._lists.get((name, img))
        if value is None or isinstance(value, str):
            return None
        return _at_batch(value, batch)


def record_network(name: str, img: int) -> KernelList:
    """The kernels of `timm:NAME` or `torchvision:NAME` for a batch of `PRIME`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _build(name, None)
        try:
            return _recorded(model, img)
        except Exception:
            if not name.startswith("timm:"):
                raise
        return _recorded(_build(name, img), img)


def _build(name: str, img: int | None) -> torch.nn.Module:
    package, _, model = name.partition(":")
    with torch.device("meta"):
        if package == "timm":
            import timm

            sized = {} if img is None else {"img_size": img}
            return timm.create_model(model, **sized).eval()
        import torchvision

        return torchvision.models.get_model(model, weights=None).eval()


def _recorded(model: torch.nn.Module, img: int) -> KernelList:
    return record_kernels(model, [TensorSpec((PRIME, 3, img, img), torch.float32)])


def _plain(listed: KernelList) -> list[Any]:
    """A kernel list as JSON has it."""

    def operand(o: Operand) -> list[int]:
        flags = [o.floating, o.weight, o.scalar]
        return [o.value, o.elements, o.itemsize, *map(int, flags)]

    def work(w: Work) -> list[int]:
        return [
            w.macs,
            w.m,
            w.n,
            w.k,
            w.groups,
            w.window,
            w.stride,
            w.channels,
            int(w.bias),
            int(w.strided),
            int(w.channels_last),
        ]

    return [
        [[k.name, k.kind, [*map(operand, k.reads)], [*map(operand, k.writes)], work(k.work),
          int(k.in_place)]
         for k in listed.kernels],
        sorted(listed.outputs),
    ]  # fmt: skip


def _at_batch(value: Any, batch: int) -> KernelList:
    def at(count: int) -> int:
        return count // PRIME * batch if count % PRIME == 0 else count

    def operands(plain: list[Any]) -> tuple[Operand, ...]:
        return tuple(Operand(o[0], at(o[1]), o[2], *map(bool, o[3:])) for o in plain)

    kernels = [
        Kernel(name, kind, operands(reads), operands(writes),
               Work(*map(at, work[:8]), *map(bool, work[8:])), bool(in_place))
        for name, kind, reads, writes, work, in_place in value[0]
    ]  # fmt: skip
    return KernelList(tuple(kernels), frozenset(value[1]))


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Records the kernels of all networks of fit.csv.")
    parser.add_argument("fit", type=Path)
    parser.add_argument("--kernels", type=Path, required=True, help="JSON lines, extended")
    arguments = parser.parse_args()
    store = KernelStore(arguments.kernels)
    store.record((row.model, row.img) for row in read_rows(arguments.fit))
    for name, img, reason in store.failures():
        print(f"{name} at {img}: {reason}")


if __name__ == "__main__":
    main()
