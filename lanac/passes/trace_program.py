"""Front end: the teacher becomes a program that verifies itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from lanac.compilation import Compilation
from lanac.frontend.build import build_program
from lanac.frontend.partition import SlotOptions
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
        program = build_program(self.teacher, compilation.example, self.names, self.options)
        graph_module = program.teacher
        for note in program.notes:
            compilation.instruments.say(note)
        for part in program.left_out:
            compilation.instruments.say(f"in no slot: {part.nodes[-1]} ({part.reason})")
        fingerprint = key_of(str(graph_module.graph), dict(graph_module.state_dict()))
        fingerprints = {**compilation.fingerprints, "teacher": fingerprint}
        return replace(compilation, program=program, fingerprints=fingerprints)
