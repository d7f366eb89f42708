"""Where networks are opened and timed: a process of their own, which may die, or this one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from lanac.backends.base import Runtime
from lanac.errors import BackendError, LanacError
from lanac.ir import TensorSpec
from lanac.targets import Sampler, Target, sampler

START_S = 180.0
"""A process that does not answer after this has hung."""

OPEN_S = 600.0
"""The same for opening one network: a compiler may take minutes."""

TIME_S = 60.0
"""The same for timing, beside twenty times what is to be expected."""


_OUT_OF_MEMORY = (
    "; the system may have run out of memory: close other programs, or take a smaller batch (:bN in "
    "the target)"
)
"""What nearly always ends a process by SIGKILL that nobody has killed by hand."""


class WorkerDied(LanacError):
    """The process in which networks were opened and timed has crashed or hung; says how."""


class Bench(Protocol):
    """Where networks are opened and timed."""

    def open(self, name: str, files: Sequence[Path], specs: Sequence[TensorSpec]) -> Sampler:
        """Opens a network for timing; its inputs are zeros.

        Raises:
            BackendError: the runtime refuses it.
            WorkerDied: it crashed or hung, now or when it is sampled. Nothing is open then.
        """

    def close(self, names: Iterable[str]) -> None:
        """Closes networks."""

    def quit(self) -> None:
        """Ends whatever runs."""


def new_bench(runtime: Runtime, target: Target) -> Bench:
    """A bench in a process of its own; it starts in the background."""
    return Worker(runtime, target)


class Local:
    """A bench in this process: starts at once, and dies with what it opens.

    Args:
        runtime: what runs the networks.
        target: where.
    """

    def __init__(self, runtime: Runtime, target: Target) -> None:
        self._runtime, self._target = runtime, target

    def open(self, name: str, files: Sequence[Path], specs: Sequence[TensorSpec]) -> Sampler:
        """See `Bench`."""
        zeros = tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in specs)
        run = self._runtime.open(tuple(files), zeros, self._target)
        return sampler(run, self._target.is_one_thread)

    def close(self, names: Iterable[str]) -> None:
        """See `Bench`: nothing is kept here."""

    def quit(self) -> None:
        """See `Bench`."""


class Worker:
    """A bench in another process, `lanac.backends.worker`; it is started again where it dies.

    Args:
        runtime: of a class that needs no arguments: the other process makes one of its own.
        target: where to run.
        patience: factor on how long is waited before a network counts as hung.
    """

    def __init__(self, runtime: Runtime, target: Target, patience: float = 1.0) -> None:
        kind = type(runtime)
        self._hello = {"runtime": f"{kind.__module__}:{kind.__qualname__}", "target": str(target)}
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._start()

    def open(self, name: str, files: Sequence[Path], specs: Sequence[TensorSpec]) -> Sampler:
        """See `Bench`."""
        inputs = [[list(spec.shape), str(spec.dtype).removeprefix("torch.")] for spec in specs]
        paths = [str(path.absolute()) for path in files]
        self._ask({"do": "open", "name": name, "files": paths, "inputs": inputs}, OPEN_S)
        last_ms = 0.0

        def sample(repeats: int) -> float:
            nonlocal last_ms
            expected_s = 20 * (repeats + 1) * last_ms / 1e3
            request = {"do": "time", "name": name, "repeats": repeats}
            last_ms = float(self._ask(request, TIME_S + expected_s))
            return last_ms

        return sample

    def close(self, names: Iterable[str]) -> None:
        """See `Bench`."""
        if self._process is not None:
            self._ask({"do": "close", "names": list(names)}, OPEN_S)

    def quit(self) -> None:
        """See `Bench`."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._errors.close()

    def _start(self) -> None:
        self._is_ready = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        # What this process can import the other one can: a runtime may be of another package.
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lanac.backends.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._unread = b""

    def _ask(self, request: dict[str, Any], patience_s: float) -> Any:
        if self._process is None:
            self._start()
        if not self._is_ready:
            self._send(self._hello, START_S)
            self._is_ready = True
        answer = self._send(request, patience_s)
        if "refused" in answer:
            raise BackendError(answer["refused"])
        return answer["ok"]

    def _send(self, request: dict[str, Any], patience_s: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        patience_s *= self._patience
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(patience_s)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.quit()
            raise WorkerDied(f"it did not end within {patience_s:.0f} s and was stopped")
        if not line:
            raise WorkerDied(self._post_mortem())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self, patience_s: float) -> bytes | None:
        """The next line; None where none came in time, an empty one where the process has ended."""
        assert self._process is not None and self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + patience_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            read = os.read(pipe, 1 << 16)
            if not read:
                return b""
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _post_mortem(self) -> str:
        """How the process has ended, and the last that it said."""
        assert self._process is not None
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"with status {status}"
        if status < 0:
            how = f"by signal {signal.Signals(-status).name}"
        self.quit()
        last = f" ({said[-1]})" if said else ""
        hint = _OUT_OF_MEMORY if status == -signal.SIGKILL else ""
        return f"the process that ran it was ended {how}{last}{hint}"
