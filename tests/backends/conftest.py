"""Teachers and students that the tests of the backends share."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from lanac.backends.onnx import export_model, save_model
from lanac.backends.pytorch import BACKEND, write_source
from lanac.targets import parse_target

CPU = parse_target("cpu")


class Residual(nn.Module):
    """Two convolutions and a shortcut, with an in-place addition."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.act(y)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, max(width // 8, 1), 1)
        self.expand = nn.Conv2d(max(width // 8, 1), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.expand(s).sigmoid()


class MBConv(nn.Module):
    """An op module such as lanac/ops makes."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        middle = inputs * 3
        self.expand = nn.Conv2d(inputs, middle, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(
            middle, middle, kernel, padding=kernel // 2, groups=middle, bias=False
        )
        self.depthwise_norm = nn.BatchNorm2d(middle, eps=1e-3)
        self.act = nn.SiLU(inplace=True)
        self.gate = Gate(middle)
        self.project = nn.Conv2d(middle, outputs, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(outputs)
        self.is_residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.expand_norm(self.expand(x)))
        y = self.gate(self.act(self.depthwise_norm(self.depthwise(y))))
        y = self.project_norm(self.project(y))
        return x + y if self.is_residual else y


def with_statistics(module: nn.Module) -> nn.Module:
    """Gives batch norms statistics: fresh networks output next to nothing, and all would agree."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 2.0),
                (part.weight.data, 0.5, 1.5),
                (part.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return module


def split(
    teacher: nn.Module, slots: list[str], ops: dict[str, nn.Module], tracer: fx.Tracer | None = None
) -> fx.GraphModule:
    """What `Program.rewrite` makes: one sub-module per slot, the teacher's own op as graph module.

    Args:
        teacher: the network.
        slots: paths of its modules that are slots.
        ops: what fills a slot; others keep the teacher's op.
        tracer: torch.fx's own where None.
    """
    tracer = tracer or fx.Tracer()
    traced = fx.GraphModule(teacher, tracer.trace(teacher))
    owner: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        owner[node] = next((slot for slot in slots if slot in stack), "")
    graph, modules, copied = fx.Graph(), {}, {}
    for node in traced.graph.nodes:
        slot = owner[node]
        if not slot:
            copied[node] = graph.node_copy(node, copied.__getitem__)
            if node.op == "call_module":
                modules[node.target] = traced.get_submodule(node.target)
            elif node.op == "get_attr":
                modules[node.target] = operator.attrgetter(node.target)(traced)
            continue
        region = [other for other in owner if owner[other] == slot]
        if node is not region[-1]:
            continue
        entry = next(v for other in region for v in other.all_input_nodes if v not in region)
        name = slot.replace(".", "_")
        modules[name] = ops.get(slot) or _region(traced, region, entry)
        copied[node] = graph.call_module(name, (copied[entry],))
    return fx.GraphModule(modules, graph, class_name="Student").eval()


def _region(traced: fx.GraphModule, region: list[fx.Node], entry: fx.Node) -> fx.GraphModule:
    graph = fx.Graph()
    inner = {entry: graph.placeholder("x")}
    for node in region:
        inner[node] = graph.node_copy(node, inner.__getitem__)
    graph.output(inner[region[-1]])
    return fx.GraphModule(traced, graph)


# Runs where nothing of lanac can be imported: -I leaves out the current folder and PYTHONPATH.
CLEAN = """
import importlib.util, sys
import torch
from safetensors.torch import load_file
torch.set_num_threads(1)  # as the tests: kernels for several threads sum in another order
spec = importlib.util.spec_from_file_location("student", sys.argv[1] + "/student.py")
student = importlib.util.module_from_spec(spec)
spec.loader.exec_module(student)
data = load_file(sys.argv[1] + "/expected.safetensors")
model = student.load()
assert not model.training
with torch.no_grad():
    error = (model(data["x"]) - data["y"]).abs().max().item()
    assert error == 0.0, error
    assert model(torch.cat([data["x"]] * 3)[:5]).shape[0] == 5
before = {name: value.clone() for name, value in model.state_dict().items()}
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(data["x"]).square().mean().backward()
optimizer.step()
changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
norms = [n for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
assert norms and all(f"{name}.running_mean" in changed for name in norms)
assert all(parameter.grad is not None for parameter in model.parameters())
assert not {"lanac", "timm", "torchvision"} & set(sys.modules)
"""


def check_in_clean_process(student: fx.GraphModule, x: Tensor, folder: Path) -> str:
    """Emits and reloads where there is no lanac; returns the source."""
    source, weights = BACKEND.emit(student, folder, (x,), CPU)
    assert (source.name, weights.name) == ("student.py", "student.safetensors")
    with torch.no_grad():
        y = student(x)
    assert y.std() > 1e-3
    save_file({"x": x, "y": y.contiguous()}, folder / "expected.safetensors")
    command = [sys.executable, "-IB", "-c", CLEAN, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return source.read_text()


@pytest.fixture
def reload_in_clean_process() -> Callable[[fx.GraphModule, Tensor, Path], str]:
    return check_in_clean_process


def load_emitted(module: fx.GraphModule, *inputs: Tensor) -> nn.Module:
    """The emitted network, in this process and in eval mode."""
    text, state = write_source(module, inputs)
    space: dict[str, object] = {"__file__": "student.py", "__name__": "student"}
    exec(compile(text, "student.py", "exec"), space)  # noqa: S102 - the text is under test
    model: nn.Module = space["Student"]()  # type: ignore[operator]
    model.load_state_dict(state)
    return model.eval()


def check_emitted(module: fx.GraphModule, *batches: Tensor) -> str:
    """The source of a network of one input; checks that it computes the same for all batches."""
    model = load_emitted(module, batches[0])
    with torch.no_grad():
        for batch in batches:
            assert torch.equal(model(batch), module(batch))
    return write_source(module, batches[:1])[0]


@pytest.fixture
def load() -> Callable[..., nn.Module]:
    return load_emitted


@pytest.fixture
def check() -> Callable[..., str]:
    return check_emitted


@pytest.fixture
def statistics() -> Callable[[nn.Module], nn.Module]:
    return with_statistics


@pytest.fixture
def rewrite() -> Callable[..., fx.GraphModule]:
    return split


@pytest.fixture
def student() -> fx.GraphModule:
    """Residual blocks, an op module in the place of one, identity in the place of another."""
    return make_student()


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[fx.GraphModule, Path]:
    """The same and its ONNX file, exported once; both are not to be changed."""
    made = make_student()
    folder = tmp_path_factory.mktemp("exact")
    return made, save_model(export_model(made, (torch.zeros(2, 3, 32, 32),)), folder)[0]


@pytest.fixture(scope="session")
def exact_linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """One linear layer from 4 to 3, and its ONNX file."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 3)).eval()
    folder = tmp_path_factory.mktemp("linear")
    return made, save_model(export_model(made, (torch.zeros(2, 4),)), folder)[0]


def make_student() -> fx.GraphModule:
    torch.manual_seed(0)
    teacher = nn.Sequential()
    teacher.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    teacher.body = nn.Sequential(
        Residual(8, 8), Residual(8, 8), Residual(8, 16, 2), Residual(16, 16), Residual(16, 16)
    )
    teacher.body.append(MBConv(16, 16)).append(MBConv(16, 24, 5))
    teacher.pool = nn.AdaptiveAvgPool2d(1)
    teacher.flatten = nn.Flatten()
    teacher.head = nn.Linear(24, 10)
    with_statistics(teacher)
    ops = {"body.3": with_statistics(MBConv(16, 16)), "body.4": nn.Identity()}
    return split(teacher.eval(), [f"body.{i}" for i in range(7)], ops)
