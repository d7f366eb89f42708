from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from lanac.ir import LeftOut, Program, Slot, TensorSpec, record_specs, verify_program


class Chain(nn.Module):
    """x -> stem -> scale -> body -> + skip from the scale -> head; the sum lies outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale
        x = self.body(x) + x
        return self.head(x.mean((2, 3)))


X = TensorSpec((2, 3, 6, 6), torch.float32)
MAP = TensorSpec((2, 4, 6, 6), torch.float32)
OUT = TensorSpec((2, 2), torch.float32)
SLOTS = (
    Slot("stem", ("stem_0", "stem_1"), "x", X, MAP),
    Slot("body.all", ("body_0", "body_1"), "mul", MAP, MAP),
    Slot("head", ("mean", "head"), "add", MAP, OUT),
)


def chain_program(slots: tuple[Slot, ...] = SLOTS) -> tuple[Program, Tensor]:
    torch.manual_seed(0)
    teacher = fx.symbolic_trace(Chain().eval()).eval()
    x = torch.randn(2, 3, 6, 6)
    specs, _ = record_specs(teacher, (x,))
    return Program(teacher, slots, specs), x


def run_path(teacher: fx.GraphModule, path: str, x: Tensor) -> Tensor:
    """Runs a Sequential that torch.fx keeps as a mere folder of layers."""
    return nn.Sequential(*teacher.get_submodule(path).children())(x)


def test_the_program_is_a_valid_one() -> None:
    program, x = chain_program()
    verify_program(program, (x,))
    assert program.input_specs == (X,)
    assert program.slot("body.all") is SLOTS[1]
    assert program.slot("body.all").attribute == "body_all"
    assert [slot.keeps_shape for slot in SLOTS] == [False, True, False]


def test_print() -> None:
    program, _ = chain_program(SLOTS[:2])
    program = program.with_slots(SLOTS[:2], (LeftOut(("mean", "head"), "a reason"),))
    assert program.print() == (
        "slot   0 stem      f32[N,3,6,6] -> f32[N,4,6,6]  (2 nodes: stem_0 .. stem_1)\n"
        "slot   1 body.all  f32[N,4,6,6] -> f32[N,4,6,6]  (2 nodes: body_0 .. body_1)\n"
        "left out: mean, head: a reason"
    )


def test_a_teacher_op_computes_what_its_region_computes_and_shares_its_weights() -> None:
    program, _ = chain_program()
    y = torch.randn(5, 4, 6, 6)
    op = program.teacher_op(SLOTS[1])
    assert torch.equal(op(y), run_path(program.teacher, "body", y))
    assert next(op.parameters()) is program.teacher.get_submodule("body.0").weight
    assert not op.training
    assert type(op).__name__ == "BodyAll"


def test_a_teacher_op_follows_the_mode_of_the_teacher() -> None:
    program, _ = chain_program()
    program.teacher.train()
    assert program.teacher_op(SLOTS[0]).training


def test_rewriting_with_nothing_is_the_teacher_bit_for_bit() -> None:
    program, x = chain_program()
    split = program.split()
    assert torch.equal(split(x), program.teacher(x))
    assert {name for name, _ in split.named_children()} == {"stem", "body_all", "head"}
    assert split.get_parameter("scale") is program.teacher.scale


def test_rewriting_puts_a_module_in_the_place_of_a_slot() -> None:
    program, x = chain_program()
    op = nn.Conv2d(4, 4, 1)
    student = program.rewrite({"body.all": op})
    teacher = program.teacher
    y = run_path(teacher, "stem", x) * teacher.scale
    assert torch.equal(student(x), teacher.head((op(y) + y).mean((2, 3))))
    assert student.body_all is op  # shared, not copied
    assert [str(node.target) for node in student.graph.nodes if node.op == "call_module"] == [
        "stem",
        "body_all",
        "head",
    ]


def test_rewriting_changes_neither_program_nor_teacher() -> None:
    program, x = chain_program()
    before, code = program.teacher(x), program.teacher.code
    student = program.rewrite({"body.all": nn.Identity()})
    student.train()
    assert not torch.equal(student(x), before)
    assert torch.equal(program.teacher(x), before)
    assert program.teacher.code == code


def test_a_slot_may_have_the_name_of_the_parent_of_a_module_outside() -> None:
    """Slot `body` beside the outside module `body.0`: neither may end up inside the other."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    teacher = fx.symbolic_trace(Net()).eval()
    x = torch.randn(2, 3, 4, 4)
    specs, _ = record_specs(teacher, (x,))
    spec = specs["x"]
    program = Program(teacher, (Slot("body", ("body_1",), "body_0", spec, spec),), specs)
    verify_program(program, (x,))
    op = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    expected = op(teacher.get_submodule("body.0")(x))
    names = list(op.state_dict())
    student = program.rewrite({"body": op})
    assert torch.equal(student(x), expected)
    assert list(op.state_dict()) == names
    assert len(list(student.parameters())) == 4


def test_outside_is_what_no_slot_computes() -> None:
    program, _ = chain_program()
    found = program.outside()
    assert found is not None
    module, specs = found
    assert specs == (MAP, MAP)
    stem, body = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    scaled = stem * program.teacher.scale
    outputs = module(stem, body)
    assert len(outputs) == 2
    assert torch.equal(outputs[0], body + scaled)
    assert torch.equal(outputs[1], scaled)


def test_outside_takes_the_inputs_that_it_reads() -> None:
    program, x = chain_program(SLOTS[1:])
    found = program.outside()
    assert found is not None
    module, specs = found
    assert specs == (X, MAP)
    assert [node.name for node in module.graph.nodes if node.op == "placeholder"] == ["x", "body_1"]
    module(x, torch.randn(2, 4, 6, 6))


def test_nothing_outside_is_none() -> None:
    torch.manual_seed(0)
    teacher = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())).eval()
    x = torch.randn(2, 3, 6, 6)
    specs, _ = record_specs(teacher, (x,))
    slot = Slot("all", ("_0", "_1"), "input_1", X, MAP)
    assert Program(teacher, (slot,), specs).outside() is None


def test_several_inputs_and_nested_outputs_are_carried_through() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, object]:
            y = self.conv(a + b)
            return {"y": y, "more": [a, (y.mean(), 3)]}

    teacher = fx.symbolic_trace(Two()).eval()
    a, b = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    specs, _ = record_specs(teacher, (a, b))
    program = Program(teacher, (Slot("conv", ("conv",), "add", X, MAP),), specs)
    verify_program(program, (a, b))
    outputs = program.rewrite({"conv": nn.Conv2d(3, 4, 1)})(a, b)
    assert outputs["more"][1][1] == 3
    assert torch.equal(outputs["more"][0], a)


@pytest.mark.parametrize("training", [True, False])
def test_the_student_stands_in_the_mode_of_the_teacher(training: bool) -> None:
    program, _ = chain_program()
    program.teacher.train(training)
    assert program.rewrite({"body.all": nn.Dropout()}).training is training
