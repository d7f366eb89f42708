"""Each invariant broken once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.errors import ProgramError
from lanac.ir import (
    Program,
    Slot,
    TensorSpec,
    flatten_tensors,
    node_parameters,
    record_specs,
    shared_weights,
    verify_program,
)


class Line(nn.Module):
    """a -> b -> c -> d, with c reading a too where `skip` is set."""

    def __init__(self, skip: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(2, 2, 1) for _ in range(4))
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        c = self.c(b)
        return self.d(c + a if self.skip else c)


SPEC = TensorSpec((2, 2, 3, 3), torch.float32)
X = torch.randn(2, 2, 3, 3)


def slot_of(name: str, *nodes: str, entry: str) -> Slot:
    return Slot(name, nodes, entry, SPEC, SPEC)


def line_program(*slots: Slot, model: nn.Module | None = None) -> Program:
    teacher = fx.symbolic_trace(model or Line()).eval()
    return Program(teacher, slots, record_specs(teacher, (X,))[0])


def message_of(program: Program, inputs: tuple[Tensor, ...] | None = None) -> str:
    with pytest.raises(ProgramError) as caught:
        verify_program(program, inputs)
    return str(caught.value)


def test_a_good_program_passes() -> None:
    verify_program(
        line_program(slot_of("s", "a", "b", entry="x"), slot_of("t", "d", entry="c")), (X,)
    )


def test_slots_overlap() -> None:
    program = line_program(slot_of("s", "a", "b", entry="x"), slot_of("t", "b", "c", entry="a"))
    assert message_of(program) == "node 'b' is in slots 's' and 't'"


@pytest.mark.parametrize(
    "slots",
    [
        (slot_of("t", "c", entry="b"), slot_of("s", "a", entry="x")),
        (slot_of("t", "b", entry="a"), slot_of("s", "d", "c", entry="b")),
    ],
    ids=["slots", "nodes"],
)
def test_slots_out_of_order(slots: tuple[Slot, ...]) -> None:
    name = slots[1].name
    assert message_of(line_program(*slots)) == f"slot {name!r} does not stand in graph order"


def test_a_second_entry() -> None:
    program = line_program(slot_of("s", "c", "add", entry="b"), model=Line(skip=True))
    assert message_of(program) == "slot 's' has a second entry: 'add' reads 'a' beside 'b'"


def test_a_second_exit() -> None:
    program = line_program(slot_of("s", "a", "b", "c", entry="x"), model=Line(skip=True))
    assert message_of(program) == "slot 's' has a second exit: 'a' is read by 'add' outside"


def test_an_exit_may_be_read_by_many() -> None:
    verify_program(line_program(slot_of("s", "a", entry="x"), model=Line(skip=True)), (X,))


def test_weights_shared_by_two_slots() -> None:
    model = Line()
    model.c = model.a
    program = line_program(
        slot_of("s", "a", entry="x"), slot_of("t", "a_1", entry="b"), model=model
    )
    assert message_of(program) == (
        "weight 'a.weight' is used by slot 's' and by slot 't'; a slot's weights must be its own"
    )
    assert shared_weights(program) == {
        "a.weight": ["slot 's'", "slot 't'"],
        "a.bias": ["slot 's'", "slot 't'"],
    }


def test_weights_shared_with_nodes_outside() -> None:
    model = Line()
    model.d.weight = model.a.weight
    assert message_of(line_program(slot_of("s", "a", entry="x"), model=model)) == (
        "weight 'a.weight' is used by nodes outside the slots and by slot 's'; "
        "a slot's weights must be its own"
    )


def test_weights_shared_outside_or_inside_one_slot_harm_nobody() -> None:
    model = Line()
    model.c = model.b
    verify_program(line_program(slot_of("s", "b", "b_1", entry="a"), model=model), (X,))
    verify_program(line_program(slot_of("s", "d", entry="b_1"), model=model), (X,))


def test_another_computation_is_a_defect() -> None:
    class Other(Program):
        def split(self) -> fx.GraphModule:
            return fx.symbolic_trace(Line())

    good = line_program(slot_of("s", "a", entry="x"))
    other = Other(good.teacher, good.slots, good.specs)
    verify_program(other)
    assert message_of(other, (X,)) == (
        "the teacher rewritten with its own ops does not compute what the teacher computes; "
        "this is a defect of lanac, please report the model"
    )


def test_nan_equals_nan_but_no_number() -> None:
    class Root(Line):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).sqrt()

    program = line_program(slot_of("s", "a", entry="x"), model=Root())
    assert program.teacher(X).isnan().any()
    verify_program(program, (X,))


def test_the_parameters_of_a_node() -> None:
    class Scaled(Line):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x - self.mean) * self.scale

    program = line_program(model=Scaled())
    sizes = {
        name: len(node_parameters(program.teacher, node)) for name, node in program.nodes.items()
    }
    assert sizes == {"x": 0, "mean": 0, "sub": 0, "a": 2, "scale": 1, "mul": 0, "output": 0}


def test_the_tensors_of_a_nested_output() -> None:

    a, b, c = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    assert flatten_tensors({"x": [a, None], "y": (b, {"z": c})}) == [a, b, c]
    assert flatten_tensors(a) == [a]
    assert flatten_tensors((3, "text")) == []
