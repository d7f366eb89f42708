"""Front end: the teacher becomes a program that verifies itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from lanac.compilation import Compilation
from lanac.frontend.admission import admit
from lanac.frontend.build import build_program
from lanac.frontend.partition import SlotOptions
from lanac.ir import node_parameters
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
        for note in program.notes:
            compilation.instruments.say(note)
        for part in program.left_out:
            nodes = [program.nodes[name] for name in part.nodes]
            if any(node_parameters(program.teacher, node) for node in nodes):
                compilation.instruments.say(f"in no slot: {part.nodes[-1]} ({part.reason})")
        # The same teacher can be cut in several ways; results of one are not those of another.
        cut = [(slot.name, slot.nodes) for slot in program.slots]
        fingerprints = {
            **compilation.fingerprints,
            "teacher": key_of(dict(admit(self.teacher).state_dict())),
            "program": key_of(str(program.teacher.graph), dict(program.teacher.state_dict()), cut),
        }
        return replace(compilation, program=program, fingerprints=fingerprints)
