"""What a pass is, and the pipeline that runs passes in order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from lanac.compilation import Compilation


class Pass(Protocol):
    """One step of the compiler: a value in, a value with more in it out.

    Its options are the typed fields of a frozen dataclass.

    Attributes:
        name: a verb and a noun, the name of its file.
        needs: artifacts that have to be there before.
        provides: artifacts that are there afterwards.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def provides(self) -> tuple[str, ...]: ...

    def run(self, compilation: Compilation) -> Compilation: ...


def run_passes(compilation: Compilation, passes: Sequence[Pass]) -> Compilation:
    """Runs passes in order and checks what each declares.

    Raises:
        RuntimeError: a pass stands before one that it needs, or does not provide what it declares.
    """
    for step in passes:
        missing = [name for name in step.needs if getattr(compilation, name) is None]
        if missing:
            raise RuntimeError(
                f"pass {step.name} needs {', '.join(missing)}, which no pass before it provides"
            )
        compilation.instruments.pass_started(step.name)
        start = time.perf_counter()
        compilation = step.run(compilation)
        absent = [name for name in step.provides if getattr(compilation, name) is None]
        if absent:
            raise RuntimeError(f"pass {step.name} declares {', '.join(absent)} and did not give it")
        compilation.instruments.pass_finished(step.name, time.perf_counter() - start)
    return compilation
