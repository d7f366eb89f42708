from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lanac.backends.pytorch import BACKEND, write_source
from lanac.errors import BackendError
from lanac.targets import parse_target

CPU = parse_target("cpu")


def emitted(module: nn.Module, *inputs: Tensor) -> str:
    """The source of a module that is traced as a whole; checks that it computes the same."""
    return check(fx.symbolic_trace(module).eval(), *inputs)


def check(module: fx.GraphModule, *inputs: Tensor) -> str:
    """The source of a student; checks that it computes the same."""
    text, state = write_source(module)
    space: dict[str, object] = {"__file__": "student.py", "__name__": "student"}
    exec(compile(text, "student.py", "exec"), space)  # noqa: S102 - the text is under test
    model = space["Student"]()  # type: ignore[operator]
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model.eval()(*inputs), module(*inputs))
    return text


def test_reloads_bit_for_bit_in_a_clean_process(
    student: fx.GraphModule,
    reload_in_clean_process: Callable[[fx.GraphModule, Tensor, Path], str],
    tmp_path: Path,
) -> None:
    reload_in_clean_process(student, torch.randn(2, 3, 32, 32), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "expected.safetensors",
        "student.py",
        "student.safetensors",
    ]


def test_source_is_readable(student: fx.GraphModule) -> None:
    text, state = write_source(student)
    assert "lanac" not in text.split('"""', 2)[2]
    assert text.count("class Residual(nn.Module)") == 1
    assert "nn.Identity()" in text
    assert "state_dict" not in text.split("def load")[0]
    assert (
        """class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.conv1(x)
        y = self.bn1(y)
        y = self.act(y)
        y = self.conv2(y)
        y = self.bn2(y)
        y = y + x
        return self.act(y)
"""
        in text
    )
    assert text.count("class MBConv(nn.Module)") == 1
    assert "self.body_3 = MBConv()" in text
    assert "self.body_5 = MBConv()" in text
    assert "body_0.conv1.weight" in state


def test_blocks_that_differ_in_numbers_share_a_class() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    for name in "abc":
        x = graph.call_module(name, (x,))
    graph.output(x)
    modules = {"a": MLP(4, 8), "b": MLP(4, 16), "c": MLP(4, 8)}
    text = check(fx.GraphModule(modules, graph).eval(), torch.randn(2, 4))
    assert (
        """class MLP(nn.Module):
    def __init__(self, out_features):
        super().__init__()
        self.first = nn.Linear(4, out_features)
        self.second = nn.Linear(out_features, 4)

    def forward(self, x):
        x = self.first(x)
        x = F.gelu(x)
        return self.second(x)
"""
        in text
    )
    assert "self.b = MLP(out_features=16)" in text


class MLP(nn.Module):
    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, middle), nn.Linear(middle, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


def test_text_and_weights_are_deterministic(student: fx.GraphModule, tmp_path: Path) -> None:
    bytes_ = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = BACKEND.emit(student, tmp_path / name, (), CPU)
        bytes_.append([path.read_bytes() for path in files])
    assert bytes_[0] == bytes_[1]
    assert str(tmp_path).encode() not in bytes_[0][0]


def test_runner_returns_all_outputs_flat(student: fx.GraphModule, tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, object]:
            return {"a": self.a(x), "rest": (self.b(y), [x * y])}

    module = fx.symbolic_trace(Heads()).eval()
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    run = BACKEND.load(BACKEND.emit(module, tmp_path, (x, y), CPU), CPU)
    a, b, c = run(x, y)
    assert torch.equal(a, module.a(x))
    assert torch.equal(b, module.b(y))
    assert torch.equal(c, x * y)
    assert not a.requires_grad
    assert BACKEND.unavailable(CPU) is None


LEAVES = [
    (nn.Conv2d(4, 8, (3, 5), (1, 2), (1, 2), (2, 1), 2, False, "reflect"), (2, 4, 12, 12)),
    (nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 9, 9)),
    (nn.Conv1d(4, 8, 3), (2, 4, 9)),
    (nn.ConvTranspose2d(4, 8, 3, 2, 1, 1, bias=False), (2, 4, 9, 9)),
    (nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False), (2, 4, 9, 9)),
    (nn.GroupNorm(2, 4), (2, 4, 9, 9)),
    (nn.InstanceNorm2d(4, affine=True), (2, 4, 9, 9)),
    (nn.LayerNorm((4, 9), eps=1e-6, bias=False), (2, 4, 9)),
    (nn.Linear(4, 8, bias=False), (2, 4)),
    (nn.PReLU(4), (2, 4, 9)),
    (nn.LeakyReLU(0.2, inplace=True), (2, 4)),
    (nn.GELU("tanh"), (2, 4)),
    (nn.Hardtanh(-2, float("inf")), (2, 4)),
    (nn.ELU(0.5), (2, 4)),
    (nn.Softmax(dim=1), (2, 4)),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 4, 8, 8)),
    (nn.MaxPool2d(2), (2, 4, 8, 8)),
    (nn.AvgPool2d((2, 2), count_include_pad=False), (2, 4, 8, 8)),
    (nn.AdaptiveAvgPool2d((None, 3)), (2, 4, 8, 8)),
    (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (2, 4, 8, 8)),
    (nn.PixelShuffle(2), (2, 4, 8, 8)),
    (nn.ZeroPad2d((1, 2, 0, 1)), (2, 4, 8, 8)),
    (nn.Unflatten(1, (2, 2)), (2, 4)),
    (nn.Flatten(2), (2, 4, 3, 3)),
    (nn.Dropout2d(0.3), (2, 4, 3, 3)),
]


@pytest.mark.parametrize(("leaf", "shape"), LEAVES, ids=[str(leaf) for leaf, _ in LEAVES])
def test_leaf_modules(leaf: nn.Module, shape: tuple[int, ...]) -> None:
    emitted(nn.Sequential(leaf), torch.randn(shape))


def test_attention_embedding_and_recurrence() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8, padding_idx=0)
            self.attend = nn.MultiheadAttention(8, 2, bias=False, batch_first=True, kdim=8)
            self.lstm = nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True)
            self.out = nn.Linear(8, 10, bias=False)
            self.out.weight = self.embed.weight
            self.scale = nn.Parameter(torch.rand(8))
            self.register_buffer("shift", torch.rand(8))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            x = x + self.attend(x, x, x, need_weights=False)[0] * self.scale
            y, _ = self.lstm(x)
            return self.out(y[:, -1] + self.shift)

    text = emitted(Text(), torch.randint(0, 10, (3, 5)))
    assert "self.attend = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)" in text
    assert "self.out.weight = self.embed.weight" in text
    assert "self.scale = nn.Parameter(torch.zeros(8))" in text
    assert 'self.register_buffer("shift", torch.zeros(8))' in text


def test_shapes_slices_methods_and_in_place_operators() -> None:
    class Shapes(nn.Module):
        def forward(self, x: Tensor, type: Tensor) -> Tensor:
            b, c = x.shape[0], x.size(1)
            y = x.reshape(b, c // 2, 2, -1)[:, :, 0]
            z = torch.cat([y, y * 2], dim=1) ** 2
            w = z[..., None].transpose(1, 2).squeeze(-1).contiguous()
            w += 1
            w = w.clamp(min=-1.0, max=float("inf")) - 2.0 ** F.softplus(type).round()
            v = torch.where(w > 0.5, w, torch.zeros_like(w, dtype=torch.float32))
            u = v
            u *= 2
            return v + u + F.interpolate(u, scale_factor=1.0) - F.max_pool1d(u, 1)

    text = emitted(Shapes(), torch.randn(2, 4, 6), torch.randn(()))
    assert "import operator" not in text
    assert "F.interpolate(mul, scale_factor=1.0)" in text


def test_in_place_operators() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    z = graph.call_function(torch.add, (x, y))
    a = graph.call_function(operator.iadd, (z, y))
    b = graph.call_function(operator.imul, (a, x))
    c = graph.call_function(operator.add, (a, b))
    graph.output(graph.call_function(operator.isub, (c, y)))
    text = check(fx.GraphModule(nn.Module(), graph).eval(), torch.randn(3), torch.randn(3))
    assert " += y" in text
    assert " -= y" in text


def test_subclasses_that_behave_as_torch_are_torch() -> None:
    class WithoutBias(nn.Conv2d):
        def __init__(self, width: int) -> None:
            super().__init__(width, width, 3, bias=False)

    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = WithoutBias(4), Standardized(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    text = check(graph_of(Net()), torch.randn(2, 4, 8, 8))
    assert "self.a = nn.Conv2d(4, 4, 3, bias=False)" in text
    assert "self.b_weight = nn.Parameter(torch.zeros((4, 4, 1, 1)))" in text


def test_old_files_are_replaced(student: fx.GraphModule, tmp_path: Path) -> None:
    for name in ("student.py", "student.safetensors"):
        (tmp_path / name).write_text("old")
    files = BACKEND.emit(student, tmp_path, (), CPU)
    BACKEND.load(files, CPU)
    assert len(list(tmp_path.iterdir())) == 2


def graph_of(module: nn.Module) -> fx.GraphModule:
    """A graph that calls one module and cannot look into it."""
    graph = fx.Graph()
    graph.output(graph.call_module("op", (graph.placeholder("x"),)))
    return fx.GraphModule({"op": module}, graph).eval()


def test_foreign_functions_are_named() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(foreign, (graph.placeholder("x"),)))
    with pytest.raises(BackendError) as caught:
        write_source(fx.GraphModule(nn.Module(), graph).eval())
    assert str(caught.value) == (
        f"cannot write node 'foreign' of the student as PyTorch source: {__name__}.foreign uses "
        "BACKEND: a value of type PytorchBackend has no source text. Put the code into a module "
        "that torch.fx traces to functions of torch, or emit ONNX only (--emit onnx)."
    )


def foreign(x: Tensor) -> Tensor:
    return x if BACKEND.name else -x


def test_code_that_differs_in_training_is_kept() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = 0.5
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return x
            self.calls.add_(1)
            mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(self.rate)
            return x * mask

    text = check(graph_of(Noise()), torch.randn(3, 4))
    assert (
        """    def forward(self, x):
        if self.training:
            self.calls.add_(1)
"""
        in text
    )
    assert text.count("return x\n") == 1
    assert text.count("return x * ") == 1


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "name", "why"),
    [
        (
            Branching(),
            f"{__name__}.Branching",
            "torch.fx cannot trace it in evaluation mode: symbolically traced variables cannot be "
            "used as inputs to control flow",
        ),
        (
            nn.TransformerEncoderLayer(8, 2),
            "torch.nn.modules.transformer.TransformerEncoderLayer",
            "it does not keep the constructor argument 'd_model'",
        ),
    ],
)
def test_modules_without_source_are_named(module: nn.Module, name: str, why: str) -> None:
    with pytest.raises(BackendError) as caught:
        write_source(graph_of(module))
    assert str(caught.value) == (
        f"cannot write module 'op' ({name}) as PyTorch source: {why}. Replace it by modules of "
        "torch.nn, or emit ONNX only (--emit onnx)."
    )


def test_hooks_are_refused() -> None:
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(BackendError, match="it has forward hooks, which would be lost"):
        write_source(graph_of(hooked))


def test_parametrizations_are_written_out() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    text = check(graph_of(normed), torch.randn(3, 2))
    assert "parametrizations_weight_original0 = nn.Parameter" in text


def test_layers_of_timm() -> None:
    layers = pytest.importorskip("timm.layers")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2dSame(3, 8, 3, stride=2)
            self.norm = layers.BatchNormAct2d(8, act_layer=nn.SiLU)
            self.drop = layers.DropPath(0.2)
            self.last = layers.LayerNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            return self.last(y + self.drop(y))

    text = check(graph_of(Net()), torch.randn(2, 3, 15, 12))
    assert "y = self.norm_act(self.norm(y))" in text or "self.norm_act(self.norm(x))" in text
    assert "self.drop = DropPath(drop_prob=0.2)" in text


def test_a_copied_slot_is_named_after_its_place(tmp_path: Path) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("head", (x,)))
    inner = fx.symbolic_trace(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()))
    for node in inner.graph.nodes:
        node.meta.pop("nn_module_stack", None)
    student = fx.GraphModule({"head": copy.deepcopy(inner)}, graph).eval()
    source, weights = BACKEND.emit(student, tmp_path, (torch.zeros(1, 2, 4, 4),), CPU)
    assert "class Head(nn.Module):" in source.read_text()
    assert "GraphModule" not in source.read_text()
    assert weights.stat().st_mode & 0o777 == 0o644
