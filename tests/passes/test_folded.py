"""Branches that ops train with never reach a measurement or an emitted file."""

from __future__ import annotations

import re
from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

from lanac import run_passes
from lanac.backends import onnx as onnx_backend
from lanac.backends import onnxruntime
from lanac.compilation import Finalist, Student
from lanac.errors import BackendError
from lanac.ir import TEACHER, OpSpec, Plan, parse_op
from lanac.ops.folding import Foldable, is_foldable
from lanac.ops.repvgg import Branches
from lanac.passes import DistillCandidates, EmitStudent, MeasureCosts, TimeFinalists, student_files
from lanac.passes.assemble import assemble_student
from lanac.passes.emit_student import fold_student
from lanac.passes.latency import Thoroughness
from lanac.targets import Effort, count_flops, count_params

OP = parse_op("repvgg(k=3)")
QUICK = Thoroughness(Effort(least=2, most=2), 2, Effort(least=2, most=2))
COSTS = MeasureCosts(replace(QUICK, networks=6))


@pytest.fixture
def exported(monkeypatch):
    """Every network that is exported to be timed."""
    networks = []
    export = onnxruntime.export_for_timing

    def record(module, inputs):
        networks.append(module)
        return export(module, inputs)

    monkeypatch.setattr(onnxruntime, "export_for_timing", record)
    return networks


def convolutions(network):
    return [part for part in network.modules() if isinstance(part, nn.Conv2d)]


def with_plan(compilation, op=OP):
    """Every block but the stem and the classifier has the op; all of them were trained."""
    compilation = run_passes(compilation, [DistillCandidates(samples=64, batch=16)])
    slots = compilation.program.slots
    ops = tuple(op if op in compilation.weights.get(s.name, {}) else TEACHER for s in slots)
    assert ops.count(op) >= 5
    return compilation, ops


def test_folded_ops_are_timed_alone_and_in_whole_networks(start, exported):
    """The additive model is fitted on the networks that will be timed at last."""
    compilation = run_passes(start("0.6x", str(OP)), [COSTS])
    assert not any(map(is_foldable, exported))
    teacher = len(convolutions(compilation.program.teacher))
    wholes = [count for count in map(len, map(convolutions, exported)) if count > 3]  # no block
    assert len(wholes) > 1 and min(wholes) < teacher  # a block's two became one
    latencies = compilation.costs.costs["latency_ms"]["blocks.0"]
    assert set(latencies) == {TEACHER, OP}


def test_folded_ops_are_counted(start):
    costs = run_passes(start("params=0.6x", str(OP)), [COSTS]).costs.costs
    for name, before, after, size in (("blocks.0", 16, 16, 12), ("blocks.2", 16, 32, 6)):
        assert costs["params"][name][OP] == 9 * before * after + after
        assert costs["flops"][name][OP] == 2 * 9 * before * after * size * size


def test_folded_finalists_are_timed(start, exported):
    compilation, ops = with_plan(run_passes(start("0.9x", str(OP)), [COSTS]))
    costs = {"latency_ms": compilation.costs.teacher["latency_ms"]}
    finalist = Finalist(Plan(ops, 0.0, costs), 1.0, 1.0, 1)
    exported.clear()
    run_passes(compilation.having(finalists=(finalist,)), [TimeFinalists(rounds=2)])
    teacher, student = exported
    assert not is_foldable(student)
    assert len(convolutions(student)) < len(convolutions(teacher))


@pytest.fixture
def finetuned(start):
    compilation, ops = with_plan(start("flops=0.9x", str(OP)))
    student = assemble_student(compilation, ops)
    finalist = Finalist(Plan(ops, 0.0), 1.0, 1.0, 1)
    return compilation.having(student=Student(student, 0.5, (), 0), chosen=finalist)


def test_what_is_emitted_has_one_convolution_for_each_op(finetuned):
    done = run_passes(finetuned, [EmitStudent(samples=16, rounds=2)])
    student, folder = done.student.module, done.outputs.folder
    assert sum(isinstance(part, Branches) for part in student.modules()) >= 5  # it can train on
    assert not student.training
    assert done.outputs.agreement["pytorch"] <= 1e-6
    folded = fold_student(student, finetuned.example)
    # PyTorch source
    source = (folder / "student.py").read_text()
    assert "BatchNorm2d" not in re.search(r"class Residual.*?\n\n\n", source, re.DOTALL)[0]
    assert "identity" not in source and "pointwise" not in source and "Branches" not in source
    # ONNX
    model = onnx.load(folder / "student.onnx")
    nodes = [node.op_type for node in model.graph.node]
    assert nodes.count("Conv") == len(convolutions(folded))
    assert "BatchNormalization" not in nodes
    # what is said of it
    one = tuple(value[:1] for value in finetuned.example)
    assert done.outputs.costs["params"] == count_params(folded) < count_params(student)
    assert done.outputs.costs["flops"] == count_flops(folded, one) < count_flops(student, one)


def test_where_only_source_is_emitted_the_folded_student_is_timed(finetuned, monkeypatch):
    timed = []
    export = onnx_backend.export_model

    def record(module, inputs):
        timed.append(module)
        return export(module, inputs)

    for module in (onnx_backend, student_files):
        monkeypatch.setattr(module, "export_model", record)
    run_passes(finetuned, [EmitStudent(backends=("pytorch",), samples=4, rounds=2)])
    student, teacher = timed
    assert (finetuned.out / "teacher.onnx").exists()
    folder = finetuned.out / "flops-0.9x@cpu"
    assert sorted(path.name for path in folder.iterdir()) == ["student.py", "student.safetensors"]
    assert len(convolutions(student)) < len(convolutions(teacher))
    assert not is_foldable(student)


def test_a_student_without_branches_is_emitted_as_it_is(start):
    student = assemble_student(start("flops=0.6x", "skip"), [TEACHER] * 7)
    assert fold_student(student, (torch.zeros(2, 1, 12, 12),)) is student


def test_folding_that_changes_the_student_is_refused(start):
    class Wrong(Foldable):
        def forward(self, x):
            return 2 * x

        def fold(self):
            return nn.Identity()

    compilation = start("flops=0.6x", "skip")
    student = compilation.program.rewrite({"blocks.0": Wrong(), "blocks.1": Wrong()}).eval()
    inputs = (compilation.task.train.batch(range(5)).inputs[0],)
    with pytest.raises(BackendError) as caught:
        fold_student(student, inputs)
    assert re.fullmatch(
        r"folding Wrong changes the student's outputs: relative difference \d\.\d\de[-+]\d\d on 5 "
        r"real inputs, at most 1e-04 expected\. This is a defect of the op's family, please report "
        r"it",
        str(caught.value),
    )


def test_an_op_that_cannot_be_folded_is_dropped_and_named(start, monkeypatch):
    def broken(self):
        raise ZeroDivisionError("zero")

    monkeypatch.setattr(Branches, "fold", broken)
    compilation = run_passes(start("flops=0.6x", f"identity,{OP}"), [COSTS])
    assert {op for ops in compilation.pool.values() for op in ops} == {TEACHER, OpSpec("identity")}
    assert compilation.instruments.warned[0] == (
        f"dropped: op {OP} of slot 'stem': Branches cannot be folded: ZeroDivisionError: zero"
    )
