"""Times whole networks side by side, each opened several times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lanac.backends import isolation
from lanac.backends.base import RUNTIMES
from lanac.backends.isolation import WorkerDied
from lanac.compilation import Compilation
from lanac.errors import BackendError
from lanac.ir import Program, TensorSpec
from lanac.targets import Timing, sample_interleaved
from lanac.targets.timing import summarise

SESSIONS = 3
"""How often each network is opened: where its weights come to lie in memory changes its latency."""


def time_networks(
    compilation: Compilation, networks: Sequence[tuple[Path, ...]], rounds: int, what: str
) -> list[Timing]:
    """Times networks in the target's runtime, interleaved.

    Args:
        compilation: with a program.
        networks: files of each that the runtime reads.
        rounds: measurements of each, over all the times that it is opened.
        what: for the progress bar.

    Raises:
        BackendError: the runtime refuses a network, or crashes.
    """
    target, each = compilation.target, -(-rounds // SESSIONS)
    specs = target_specs(compilation.need("program"), target.batch)
    bench = isolation.new_bench(RUNTIMES.get(target.runtime), target)
    try:
        with (
            compilation.workspace.lock("measuring", "is measuring latencies", wait=True),
            compilation.instruments.progress(what, each) as advance,
        ):
            samplers = [
                bench.open(f"{place} {session}", files, specs)
                for session in range(SESSIONS)
                for place, files in enumerate(networks)
            ]
            taken = sample_interleaved(samplers, rounds=each, progress=lambda _: advance(1))
    except WorkerDied as error:
        raise BackendError(f"a whole network cannot be timed on {target}: {error}") from error
    finally:
        bench.quit()
    count = len(networks)
    return [
        summarise([value for own in taken[place::count] for value in own]) for place in range(count)
    ]


def target_specs(program: Program, batch: int) -> tuple[TensorSpec, ...]:
    """Inputs of the network at the target's batch."""
    return tuple(spec.with_batch(batch) for spec in program.input_specs)
