"""Times parts of networks and whole ones beside the teacher, in a process that may die."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lanac.backends import isolation
from lanac.backends.base import RUNTIMES, Runtime
from lanac.backends.isolation import Bench, WorkerDied
from lanac.compilation import Compilation
from lanac.errors import BackendError, PoolError
from lanac.ir import TensorSpec, signature
from lanac.targets import Comparison, Effort, Sampler, compare_interleaved
from lanac.workspace import Result, key_of

GROUP = 24
"""Networks open at once, each group with the teacher beside it: bounds memory."""

GROUP_PARAMS = 50e6
"""So many weights in a group, at least one network."""

_NOISY = 0.05
"""A latency that is known worse than this was measured on a busy machine."""

_MANY = 0.1
"""If more than this share of all latencies are like that, it is said."""


@dataclass(frozen=True)
class Part:
    """Something to be timed.

    Attributes:
        key: of what it is.
        make: builds it; what a large pool holds together does not fit into memory.
        specs: of its inputs.
        params: how many weights it has, about.
    """

    key: str
    make: Callable[[], nn.Module]
    specs: tuple[TensorSpec, ...]
    params: float = 0.0


class PartTimer:
    """Milliseconds of parts, on the scale of one measurement of the teacher; a context manager.

    Every group is timed beside the whole teacher, and its times are brought to the scale of the
    teacher's first measurement, so that groups of different hours compare. Each group's times are
    in the workspace as soon as they are known.

    Args:
        compilation: with a program.

    Attributes:
        whole: the teacher.
        times: milliseconds by key.
        failures: why a part cannot be timed, by key.

    Raises:
        BackendError: the target's runtime cannot time anything here.
    """

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation
        self._target, self._workspace = compilation.target, compilation.workspace
        self._runtime: Runtime = timing_runtime(compilation)
        program = compilation.need("program")
        specs = tuple(spec.with_batch(self._target.batch) for spec in program.input_specs)
        self.whole = self.part(program.teacher, specs)
        self.times: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self._within: dict[str, float] = {}
        self._spreads: list[float] = []
        self._reference: Sampler | None = None
        self._bench: Bench | None = None

    def __enter__(self) -> PartTimer:
        return self

    def __exit__(self, *_: object) -> None:
        bench, self._bench, self._reference = self._bench, None, None
        if bench is not None:
            bench.quit()

    def part(self, module: nn.Module, specs: tuple[TensorSpec, ...]) -> Part:
        """A module as it is."""
        return Part(self.key(signature(module, specs[0]), specs), lambda: module, specs)

    def key(self, what: str, specs: tuple[TensorSpec, ...]) -> str:
        """`what` is the signature of a module; inputs, target and runtime count as well."""
        shapes = [(str(spec), spec.shape) for spec in specs]
        version = self._runtime.version(self._target)
        return key_of("latency", "memory kept", what, shapes, str(self._target), version)

    def time(
        self,
        parts: Sequence[Part],
        what: str,
        effort: Effort,
        *,
        sessions: int = 1,
        worth: Callable[[Part], bool] = lambda part: True,
    ) -> None:
        """Adds the times of the parts; what was measured before is taken from the workspace.

        Args:
            parts: in the order of timing.
            what: for the progress bar.
            effort: how long.
            sessions: how often each is opened; where its weights come to lie in memory changes a
                network's latency by a few percent. The median counts.
            worth: asked again before each group; what is not worth it is left out.
        """
        distinct = {part.key: part for part in parts}
        missing = [part for part in distinct.values() if not self._is_known(part, sessions)]
        if not missing:
            return
        with (
            self._workspace.lock("measuring", "is measuring latencies", wait=True),
            self._compilation.instruments.progress(what, len(missing)) as advance,
        ):
            if self._bench is None:
                self._bench = isolation.new_bench(self._runtime, self._target)
            while missing:
                group = next(_groups(missing, worth, sessions), [])
                before = len(missing)
                place = missing.index(group[-1]) + 1 if group else before
                missing = missing[place:]
                if group:
                    self._time_group(self._bench, group, effort, sessions)
                advance(before - len(missing))

    def warn_if_noisy(self) -> None:
        """Says so where the machine was too busy for what was asked."""
        unsure = {key: within for key, within in self._within.items() if within > _NOISY}
        if len(unsure) <= _MANY * len(self._within):
            return
        worst, spread = max(unsure.values()), statistics.median(self._spreads)
        self._compilation.instruments.warn(
            f"this machine is too noisy to measure well: {len(unsure)} of {len(self._within)} "
            f"latencies are known within {100 * worst:.0f} % only, and half of the teacher's own "
            f"measurements lie {100 * spread:.0f} % apart. Measure again (another --workspace) "
            "while nothing else runs, or expect finalists that miss their predictions"
        )

    def _is_known(self, part: Part, sessions: int) -> bool:
        if part.key in self.times or part.key in self.failures:
            return True
        stored = self._workspace.get("latency", self._stored_key(part, sessions))
        if stored is not None:
            self.times[part.key] = float(stored.value["ms"])
            self._within[part.key] = float(stored.value["within"])
            self._spreads.append(float(stored.value["spread"]))
        return stored is not None

    def _stored_key(self, part: Part, sessions: int) -> str:
        """Times are on the scale of one teacher's measurement."""
        return key_of(part.key, self.whole.key, sessions)

    def _time_group(
        self, bench: Bench, group: Sequence[Part], effort: Effort, sessions: int
    ) -> None:
        """Times a group; whatever kills the process is left out, and the others are tried again."""
        with tempfile.TemporaryDirectory(prefix="lanac-") as folder:
            files = {part.key: self._written(part, Path(folder)) for part in group}
            while True:
                left = [part for part in group if files[part.key] and self._is_open_to(part)]
                try:
                    compared = self._compare(bench, left, files, effort, sessions)
                    break
                except _Killed as death:
                    self._reference = None
                    self._fail(death.part, f"in {self._runtime.name} {death}")
            left = [part for part in left if part.key not in self.failures]
        for part in left:
            self._keep(part, compared[part.key], sessions)

    def _is_open_to(self, part: Part) -> bool:
        return part.key not in self.failures

    def _compare(
        self,
        bench: Bench,
        group: Sequence[Part],
        files: dict[str, tuple[Path, ...]],
        effort: Effort,
        sessions: int,
    ) -> dict[str, list[Comparison]]:
        """One comparison with the teacher for each session of each part that can be opened."""
        reference = self._open_reference(bench)
        names, samplers = [], []
        try:
            for part in group:
                for session in range(sessions):
                    name = f"{part.key} {session}"
                    try:
                        opened = self._open(bench, name, part, files[part.key])
                    except BackendError as error:
                        self._fail(part, str(error))
                        break
                    names.append((part.key, name))
                    samplers.append(opened)
            found = compare_interleaved(reference, samplers, effort)
            bench.close([name for _, name in names])
        except WorkerDied as error:
            raise _Killed(self.whole, str(error)) from error
        compared: dict[str, list[Comparison]] = {}
        for (key, _), comparison in zip(names, found, strict=True):
            compared.setdefault(key, []).append(comparison)
        return compared

    def _open_reference(self, bench: Bench) -> Sampler:
        if self._reference is None:
            try:
                with tempfile.TemporaryDirectory(prefix="lanac-") as folder:
                    files = self._write(self.whole, Path(folder))
                    self._reference = self._open(bench, "teacher", self.whole, files)
            except (BackendError, _Killed) as error:
                raise BackendError(
                    f"the teacher cannot be timed on {self._target}: {error}"
                ) from error
        return self._reference

    def _open(self, bench: Bench, name: str, part: Part, files: Sequence[Path]) -> Sampler:
        """A sampler whose process may die; it then says of what."""
        try:
            sample = bench.open(name, files, part.specs)
        except WorkerDied as error:
            raise _Killed(part, str(error)) from error

        def watched(repeats: int) -> float:
            try:
                return sample(repeats)
            except WorkerDied as error:
                raise _Killed(part, str(error)) from error

        return watched

    def _written(self, part: Part, folder: Path) -> tuple[Path, ...]:
        """The files of a part; none where they cannot be written."""
        try:
            return self._write(part, folder)
        except (BackendError, PoolError) as error:
            self._fail(part, str(error))
            return ()

    def _write(self, part: Part, folder: Path) -> tuple[Path, ...]:
        own = folder / part.key
        own.mkdir()
        zeros = tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in part.specs)
        return self._runtime.write(part.make().eval(), zeros, own, self._target)

    def _fail(self, part: Part, reason: str) -> None:
        if part is self.whole:
            raise BackendError(f"the teacher cannot be timed on {self._target}: {reason}")
        self.failures[part.key] = reason

    def _keep(self, part: Part, found: Sequence[Comparison], sessions: int) -> None:
        """The first measurement of the teacher gives the scale of all others."""
        first = self._workspace.get("latency", self.whole.key)
        if first is None:
            first = Result(found[0].reference.median_ms)
            self._workspace.put("latency", self.whole.key, first)
        scale = float(first.value)
        self.times[part.key] = scale * statistics.median(item.ratio for item in found)
        self._within[part.key] = statistics.median(item.within for item in found)
        spread = statistics.median(item.reference.spread for item in found)
        self._spreads.append(spread)
        value = {"ms": self.times[part.key], "within": self._within[part.key], "spread": spread}
        self._workspace.put("latency", self._stored_key(part, sessions), Result(value))


class _Killed(Exception):
    """A part whose opening or timing ended the process."""

    def __init__(self, part: Part, how: str) -> None:
        super().__init__(how)
        self.part = part


def timing_runtime(compilation: Compilation) -> Runtime:
    """The runtime of the target.

    Raises:
        BackendError: it cannot time anything here; says why.
    """
    target = compilation.target
    runtime = RUNTIMES.get(target.runtime)
    reason = runtime.unavailable(target)
    if reason is not None:
        raise BackendError(f"latency on {target} cannot be measured here: {reason}")
    return runtime


def _groups(
    parts: Sequence[Part], worth: Callable[[Part], bool], sessions: int
) -> Iterator[list[Part]]:
    """Parts that are timed together, in order."""
    group: list[Part] = []
    params = 0.0
    for part in filter(worth, parts):
        params += sessions * part.params
        if group and (len(group) * sessions >= GROUP or params > GROUP_PARAMS):
            yield group
            group, params = [], sessions * part.params
        group.append(part)
    if group:
        yield group
