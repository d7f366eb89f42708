"""Front end: the teacher becomes a program that verifies itself."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import nn

from lanac.compilation import Compilation
from lanac.errors import ProgramError
from lanac.frontend.partition import SlotOptions, partition
from lanac.frontend.tracing import trace
from lanac.ir import verify_program
from lanac.workspace import key_of


@dataclass(frozen=True)
class TraceProgram:
    """Traces the teacher, cuts it into slots and checks the program's invariants.

    Attributes:
        teacher: the trained network.
        names: the arguments of its `forward` that the example is for, where given by keyword.
        options: what becomes a slot.
    """

    teacher: nn.Module
    names: tuple[str, ...] = ()
    options: SlotOptions = field(default_factory=SlotOptions)
    name = "trace_program"
    needs = ()
    provides = ("program",)

    def run(self, compilation: Compilation) -> Compilation:
        check_patterns(self.teacher, self.options)
        traced = trace(self.teacher, compilation.example, self.names)
        graph_module = traced.module
        program = partition(traced, self.options)
        verify_program(program, compilation.example)
        for note in traced.notes:
            compilation.instruments.say(note)
        for part in program.left_out:
            compilation.instruments.say(f"in no slot: {part.nodes[-1]} ({part.reason})")
        fingerprint = key_of(str(graph_module.graph), dict(graph_module.state_dict()))
        fingerprints = {**compilation.fingerprints, "teacher": fingerprint}
        return replace(compilation, program=program, notes=traced.notes, fingerprints=fingerprints)


def check_patterns(model: nn.Module, options: SlotOptions) -> None:
    """Raises ProgramError for a pattern that no module path of the model matches."""
    paths = [path for path, _ in model.named_modules() if path]
    for option, patterns in (("only", options.only), ("skip", options.skip)):
        for pattern in patterns:
            if any(fnmatchcase(path, pattern) for path in paths):
                continue
            near = set(difflib.get_close_matches(pattern, paths, n=3, cutoff=0.5))
            shown = [path for path in paths if path in near]
            shown = shown or [path for path in paths if "." not in path][:5]
            known = f", such as {', '.join(shown)}" if shown else "; it has none"
            raise ProgramError(
                f"--{option} {pattern!r} matches no module of {type(model).__name__}; expected a "
                f"glob pattern of module paths{known} (lanac inspect MODEL shows the slots)"
            )
