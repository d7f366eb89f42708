"""What every backend offers: outputs that are written, runtimes that run and time networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor, fx, nn

from lanac.errors import BackendError
from lanac.registry import Registry
from lanac.targets import Target

Runner = Callable[..., tuple[Tensor, ...]]
"""Runs an emitted network: input tensors (B, ...) to its output tensors, flattened, in order."""

Run = Callable[[], object]
"""One inference; what comes out is of no interest."""


class Backend(Protocol):
    """One output of the compiler.

    Attributes:
        name: what the user writes in `--emit`.
    """

    @property
    def name(self) -> str: ...

    def unavailable(self, target: Target) -> str | None:
        """Why this output cannot be written here for that target, or None where it can."""

    def precision(self, target: Target) -> str:
        """The number format that the files compute in: decides how closely they have to agree."""

    def emit(
        self, student: fx.GraphModule, folder: Path, inputs: tuple[Tensor, ...], target: Target
    ) -> tuple[Path, ...]:
        """Writes the student's files into `folder`.

        Args:
            student: in eval mode, on the CPU, fp32; its sub-modules are torch.nn modules, graph
                modules or modules that torch.fx traces.
            folder: exists.
            inputs: example inputs; the first dimension is the batch and stays dynamic.
            target: what the files are for.

        Returns:
            The files written, the main one first.

        Raises:
            BackendError: the student has something that this backend cannot express.
        """

    def load(self, files: tuple[Path, ...], target: Target) -> Runner:
        """Loads what `emit` wrote, without lanac's help, for comparison with the student.

        Where the files run only on a device that is not here, what they were made of is loaded,
        and the files are checked as far as that can be done without running them.

        Raises:
            BackendError: a file is not what it should be.
        """

    def notes(self, files: tuple[Path, ...], target: Target) -> tuple[str, ...]:
        """Sentences on what was not verified here, and on what the user has to do or to know."""


class Runtime(Protocol):
    """What executes networks on a device; it times them there.

    Writing and opening are two steps, because a network may be opened in another process than the
    one that made it.

    Attributes:
        name: the part of a target that asks for it.
        reads: the output whose files it runs, such as `onnx`.
    """

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> str: ...

    def unavailable(self, target: Target) -> str | None:
        """Why nothing can be timed here for that target, or None where it can."""

    def version(self, target: Target) -> str:
        """What a measurement depends on besides the network: runtime, its version, the device."""

    def write(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, target: Target
    ) -> tuple[Path, ...]:
        """Writes a module for timing alone: quicker than emission, of fixed shapes.

        Args:
            module: in eval mode, on the CPU, fp32.
            inputs: at the target's batch.
            folder: exists.
            target: its precision counts.

        Returns:
            The files written, the main one first.

        Raises:
            BackendError: the module has something that the runtime's files cannot express.
        """

    def open(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...], target: Target) -> Run:
        """Loads files of `write` or of the output that it reads; each call is one inference.

        On a device that works asynchronously a call ends when the inference has ended.

        Raises:
            BackendError: the runtime refuses them.
        """


BACKENDS: Registry[Backend] = Registry(
    "output", "lanac.backends", "BACKEND", "lanac.backends", BackendError
)
RUNTIMES: Registry[Runtime] = Registry(
    "runtime", "lanac.backends", "RUNTIME", "lanac.runtimes", BackendError
)
