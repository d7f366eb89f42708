"""The process that opens and times networks, so that a runtime that crashes takes nobody along.

    python -m lanac.backends.worker

Reads one JSON object a line from standard input and answers each with one line. The first says
which runtime and target; the others ask:

    {"do": "open", "name": N, "files": [...], "inputs": [[[1, 3, 224, 224], "float32"], ...]}
    {"do": "time", "name": N, "repeats": R}
    {"do": "close", "names": [...]}

An answer is `{"ok": VALUE}`, or `{"refused": REASON}` where the runtime refuses a network. It ends
with its standard input.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

_STAT = Path("/proc/stat")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h


def main() -> None:
    """Serves until standard input ends."""
    # Ctrl-C reaches the whole terminal; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What runtimes print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_memory()
    _serve(sys.stdin, answers)
    answers.flush()
    os._exit(0)  # helper threads of a runtime may not want to end


def keep_memory() -> None:
    """Memory that a network frees stays with this process; where the system cannot, nothing happens.

    glibc returns large blocks to the system or keeps them, depending on what the process has freed
    before. Eager PyTorch frees every activation: one and the same network took 22 ms with kept blocks
    and 38 ms where each had to be mapped, zeroed and returned.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def _serve(requests: Iterable[str], answers: IO[str]) -> None:
    serving: Serving | None = None
    for line in requests:
        request = json.loads(line)
        if serving is None:
            serving = Serving(request["runtime"], request["target"])
            answer: dict[str, Any] = {"ok": serving.pinned}
        else:
            answer = serving.answer(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Serving:
    """One runtime, with the networks that are open in it.

    Args:
        place: module and class of the runtime, such as `lanac.backends.onnxruntime:OnnxRuntime`.
        target: as a string.
    """

    def __init__(self, place: str, target: str) -> None:
        before = _idle_times()
        import torch

        from lanac.targets import parse_target

        module, _, name = place.partition(":")
        self._runtime = getattr(importlib.import_module(module), name)()
        self._target = parse_target(target)
        torch.set_num_threads(self._target.threads)
        self.pinned = _pin(self._target.threads, before) if self._target.entry.kind == "cpu" else []
        self._open: dict[str, Callable[[int], float]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        from lanac.errors import BackendError, first_line

        if request["do"] == "time":
            return {"ok": self._open[request["name"]](request["repeats"])}
        if request["do"] == "close":
            for name in request["names"]:
                self._open.pop(name, None)
            gc.collect()
            return {"ok": None}
        try:
            self._open[request["name"]] = self._opened(request["files"], request["inputs"])
        except BackendError as error:
            return {"refused": str(error)}
        except (
            Exception
        ) as error:  # a runtime that throws refuses; one that crashes is seen outside
            return {"refused": f"{type(error).__name__}: {first_line(error)}"}
        return {"ok": None}

    def _opened(self, files: list[str], inputs: list[Any]) -> Callable[[int], float]:
        import torch

        from lanac.targets import sampler

        zeros = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in inputs)
        run = self._runtime.open(tuple(map(Path, files)), zeros, self._target)
        run()  # what breaks at the first call breaks here, where it is known which one it was
        return sampler(run, self._target.is_one_thread)


def _pin(threads: int, before: dict[int, float]) -> list[int]:
    """Keeps this process on the least busy processors; where the system cannot, nothing happens."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) <= threads:
        return allowed
    after = _idle_times()
    idle = {cpu: after.get(cpu, 0.0) - before.get(cpu, 0.0) for cpu in allowed}
    chosen = sorted(allowed, key=lambda cpu: -idle[cpu])[:threads]
    os.sched_setaffinity(0, chosen)
    return chosen


def _idle_times() -> dict[int, float]:
    """For how long each processor has had nothing to do, in the system's unit."""
    if not _STAT.exists():
        return {}
    lines = [line.split() for line in _STAT.read_text(encoding="utf-8").splitlines()]
    return {
        int(fields[0][3:]): float(fields[4])
        for fields in lines
        if fields and fields[0].startswith("cpu") and fields[0][3:].isdigit()
    }


if __name__ == "__main__":
    main()
