"""What users may give to compile(), and what they get before any work is done."""

from __future__ import annotations

import importlib.util
import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lanac
from lanac.beginning import Given
from lanac.compiler import parse_outputs
from lanac.errors import BackendError, DataError, TraceError, TrainingError
from lanac.targets import parse_target

SETTINGS = lanac.Settings(
    distill_samples=16, score_samples=16, plans=2, evaluate_images=16, finalists=1,
    finetune_epochs=1, batch_size=8, held_out=4,
)  # fmt: skip
COUNT = 24


def layer(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class Body(nn.Module):
    """Two resolutions, each with a block that can be skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine = layer(3, 8), layer(8, 8)
        self.down, self.coarse = layer(8, 16, 2), layer(16, 16)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(image)
        fine = fine + self.fine(fine)
        coarse = self.down(fine)
        return fine, coarse + self.coarse(coarse)


class Boxes(NamedTuple):
    where: Any
    score: Any


class TwoInputs(nn.Module):
    """An image and a vector; options that keep their defaults; a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.table = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.classifier, self.regressor = nn.Linear(24, 3), nn.Linear(24, 4)

    def features(self, image: Tensor, numbers: Tensor) -> Tensor:
        return torch.cat([self.body(image)[1].mean((2, 3)), self.table(numbers)], 1)

    def forward(self, image: Tensor, numbers: Tensor, double: bool = False) -> dict[str, Any]:
        x = self.features(image, numbers)
        x = x * 2 if double else x
        return {"boxes": Boxes(self.regressor(x), self.classifier(x)), "features": [x]}


@dataclass
class HubOutput(OrderedDict[str, Any]):
    """As Hugging Face's: a dataclass that is a dict of what is not None."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) is not None:
                self[entry.name] = getattr(self, entry.name)


class HubModel(TwoInputs):
    """Called by keyword; its loss is not for the compiler."""

    def forward(
        self,
        numbers: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HubOutput:
        assert pixel_values is not None and numbers is not None
        logits = self.classifier(self.features(pixel_values, numbers))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return HubOutput(loss=loss, logits=logits)


def samples(make: Callable[[Tensor, Tensor, Tensor], Any]) -> list[Any]:
    """One sample per (image, numbers, class)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(COUNT, 3, 8, 8, generator=generator)
    numbers = torch.randn(COUNT, 5, generator=generator)
    classes = torch.randint(3, (COUNT,), generator=generator)
    return [make(*parts) for parts in zip(images, numbers, classes, strict=True)]


def seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def compiled(model: nn.Module, data: Any, out: Path, **options: Any) -> lanac.Compilation:
    options = {"budget": "flops=0.9x", "pool": "skip", "settings": SETTINGS} | options
    return lanac.compile(model, train_data=data, out=out, **options).student


def check_met(compilation: lanac.Compilation) -> None:
    outputs = compilation.outputs
    assert outputs is not None
    assert outputs.costs["flops"] <= 0.9 * outputs.teacher_costs["flops"]
    assert outputs.agreement["pytorch"] <= 1e-6
    assert outputs.agreement["onnx"] <= 1e-4


def onnx_names(compilation: lanac.Compilation) -> tuple[list[str], list[str]]:
    graph = onnx.load(compilation.outputs.folder / "student.onnx").graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


def emitted(compilation: lanac.Compilation) -> Any:
    path = compilation.outputs.folder / "student.py"
    spec = importlib.util.spec_from_file_location("emitted_student", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def test_inputs_by_name_and_nested_outputs_and_targets(tmp_path: Path) -> None:
    def loss(outputs: Any, targets: Any) -> Tensor:
        score = F.cross_entropy(outputs["boxes"].score, targets["class"])
        return score + F.l1_loss(outputs["boxes"].where, targets["box"])

    def accuracy(outputs: Any, targets: Any) -> Tensor:
        assert type(outputs) is dict and type(outputs["features"]) is list
        return (outputs["boxes"].score.argmax(1) == targets["class"]).float().mean()

    data = samples(
        lambda image, numbers, kind: (
            {"numbers": numbers, "image": image},
            {"class": kind, "box": numbers[:4]},
        )
    )
    found = compiled(seeded(TwoInputs), data, tmp_path, loss=loss, metric=accuracy)
    check_met(found)
    assert found.task.metric_name == "accuracy"
    assert onnx_names(found) == (
        ["image", "numbers"],
        ["boxes.where", "boxes.score", "features.0"],
    )
    first = found.task.train.batch([0, 1]).inputs
    outputs = emitted(found)(numbers=first[1], image=first[0])
    expected = found.student.module(*first)
    assert outputs["boxes"]._fields == ("where", "score")
    assert torch.equal(outputs["boxes"].where, expected["boxes"].where)
    assert torch.equal(outputs["features"][0], expected["features"][0])


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["flops=0.9x", "flops=0.9x+latency=0.95x"])
def test_a_model_and_samples_as_from_hugging_face(tmp_path: Path, budget: str) -> None:
    def loss(outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs.logits, targets)

    data = samples(
        lambda image, numbers, kind: {"pixel_values": image, "labels": kind, "numbers": numbers}
    )
    found = compiled(seeded(HubModel), data, tmp_path, loss=loss, budget=budget)
    check_met(found)
    assert onnx_names(found) == (["numbers", "pixel_values"], ["logits"])
    inputs = found.task.train.batch([0, 1]).inputs
    outputs = emitted(found)(pixel_values=inputs[1], numbers=inputs[0])
    assert outputs["logits"] is outputs.logits
    assert outputs.loss is None
    assert torch.equal(outputs.logits, found.student.module(*inputs).logits)


class Maps(Body):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine, coarse = super().forward(image)
        return {"fine": fine, "coarse": coarse}


def test_unlabelled_data_with_outputs_of_several_resolutions(tmp_path: Path) -> None:
    data = samples(lambda image, numbers, kind: image)
    found = compiled(seeded(Maps), data, tmp_path)
    check_met(found)
    assert found.task.metric_name == "agreement"
    assert found.outputs.teacher_metric == 100.0
    assert 0.0 <= found.outputs.metric < 100.0
    assert onnx_names(found) == (["image"], ["fine", "coarse"])


# What does not fit ------------------------------------------------------------------------------

BY_NAME = samples(lambda image, numbers, kind: ({"image": image, "numbers": numbers}, kind))
BY_PLACE = samples(lambda image, numbers, kind: ((image, numbers), kind))
EXAMPLE = {"image": torch.zeros(2, 3, 8, 8), "numbers": torch.zeros(2, 5)}


def loss_of(outputs: Any, targets: Any) -> Tensor:
    return F.cross_entropy(outputs["boxes"].score, targets)


def score_of(outputs: Any, targets: Any) -> float:
    return 0.0


def begun(out: Path, model: nn.Module | None = None, **options: Any) -> lanac.Compilation:
    options = {"train_data": BY_NAME, "loss": loss_of, "metric": score_of} | options
    return lanac.begin(model or seeded(TwoInputs), out=out, held_out=4, **options)


def test_example_inputs_may_be_a_dict_or_a_tuple(tmp_path: Path) -> None:
    by_name = begun(tmp_path / "a", example_inputs=dict(reversed(EXAMPLE.items())))
    by_place = begun(tmp_path / "b", train_data=BY_PLACE, example_inputs=list(EXAMPLE.values()))
    for found in (by_name, by_place):
        assert all(a is b for a, b in zip(found.example, EXAMPLE.values(), strict=True))
        assert found.program is not None
        inputs = [n.target for n in found.program.teacher.graph.nodes if n.op == "placeholder"]
        assert inputs == ["image", "numbers"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"example_inputs": tuple(EXAMPLE.values())},
            "example_inputs(): the inputs are a tuple; expected a dict with 'image', 'numbers', as "
            "the first sample of train_data() has them",
        ),
        (
            {"example_inputs": {"image": torch.zeros(()), "numbers": torch.zeros(2, 5)}},
            "example_inputs() has a tensor without dimensions; expected a batch first",
        ),
        (
            {"val_data": BY_PLACE},
            "val_data(): the inputs are a list; expected a dict with 'image', 'numbers', as the "
            "first sample of train_data() has them",
        ),
        (
            {"train_data": BY_PLACE, "val_data": BY_NAME},
            "val_data(): the inputs are a dict with 'image', 'numbers'; expected tensors by "
            "position, as the first sample of train_data() has them",
        ),
        (
            {"train_data": samples(lambda image, numbers, kind: ({"image": image}, kind))},
            "train_data(): a sample has the inputs 'image', but TwoInputs.forward also needs "
            "'numbers'. Add to the samples what is missing.",
        ),
    ],
    ids=["example by place", "example without batch", "val by place", "val by name", "missing"],
)
def test_inputs_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        begun(tmp_path / "out", **options)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_too_few_inputs_by_position(tmp_path: Path) -> None:
    data = samples(lambda image, numbers, kind: (image, kind))
    with pytest.raises(TraceError) as caught:
        begun(tmp_path, train_data=data)
    assert str(caught.value) == (
        "the model fails on the first samples of train_data(), of shape (8, 3, 8, 8): TypeError: "
        "TwoInputs.forward() missing 1 required positional argument: 'numbers'. Check that "
        "train_data() gives what model() expects."
    )


def test_a_teacher_that_gives_nan_is_named_first(tmp_path: Path) -> None:
    model = seeded(TwoInputs)
    nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(DataError) as caught:
        begun(tmp_path, model)
    assert str(caught.value) == (
        "the teacher's output 'boxes.score' of shape (8, 3) has 24 values that are NaN or infinite, "
        "on the first samples of train_data(); expected finite numbers. Check the weights that "
        "model() loads and the normalisation of the inputs."
    )


def test_a_detector_as_a_whole_is_refused_with_what_to_do(tmp_path: Path) -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=64
    )
    with pytest.raises(DataError) as caught:
        begun(tmp_path, model, train_data=(torch.rand(20, 3, 64, 64), torch.zeros(20)))
    text = str(caught.value)
    assert text.startswith("the model returns other outputs for several samples (output_0.boxes, ")
    assert text.endswith(
        "Detectors that select boxes image by image do that; they cannot be compiled as a whole. "
        "Compile the part that returns the same tensors for any batch: the detector's backbone "
        "(model.backbone), perhaps with its head."
    )


def hooked() -> nn.Module:
    model = nn.Sequential(layer(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model[0][0].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def test_what_could_not_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    data = [(torch.randn(3, 8, 8), 0) for _ in range(COUNT)]
    with pytest.raises(BackendError) as caught:
        compiled(hooked(), data, tmp_path, budget="flops=0.9x", pool="skip")
    assert str(caught.value) == (
        "cannot write module '0.0' (torch.nn.modules.conv.Conv2d) as PyTorch source: it has forward "
        "hooks, which would be lost. Replace it by modules of torch.nn, or emit ONNX only "
        "(--emit onnx)."
    )
    assert not list(tmp_path.glob("*@*"))


class Decoding(Body):
    """In evaluation it decodes in place; autograd needs what it overwrites."""

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        scores = super().forward(image)[1].sigmoid()
        if not self.training:
            scores[:, :2].mul_(2)
        return scores.mean((2, 3))


def test_a_network_through_which_no_gradient_flows(tmp_path: Path) -> None:
    data = [(torch.randn(3, 8, 8), 0) for _ in range(COUNT)]
    with pytest.raises(TrainingError) as caught:
        compiled(Decoding(), data, tmp_path, budget="flops=0.9x", pool="skip")
    assert str(caught.value) == (
        "the network cannot be finetuned as it is in evaluation: one of the variables needed for "
        "gradient computation has been modified by an inplace operation: [torch.FloatTensor "
        "[2, 16, 4, 4]], which is output 0 of Sigmoid, is at version 1; expected version 0 "
        "instead. Written in place: mul_ in forward(). Write into new tensors in forward(), "
        "or return the network without that part from model()."
    )


def test_a_frozen_network(tmp_path: Path) -> None:
    data = [(torch.randn(3, 8, 8), 0) for _ in range(COUNT)]
    model = Body().requires_grad_(False)
    with pytest.raises(TrainingError) as caught:
        compiled(model, [x for x, _ in data], tmp_path, budget="flops=0.9x", pool="skip")
    assert str(caught.value) == (
        "all weights of the network are frozen (requires_grad is False), so that no student could "
        "be finetuned. Call model.requires_grad_(True) in model() before you return it"
    )


def test_the_workspace_may_lie_elsewhere(tmp_path: Path) -> None:
    """Neither folder has to be there."""
    data = (torch.randn(COUNT, 3, 8, 8), torch.zeros(COUNT, dtype=torch.long))
    model = nn.Sequential(layer(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    out, workspace = tmp_path / "new" / "out", tmp_path / "kept" / "workspace"
    begun = lanac.begin(model, train_data=data, out=out, workspace=workspace)
    assert begun.workspace.folder == workspace and workspace.is_dir()
    assert [path.name for path in out.iterdir()] == ["lanac.json"]


def test_what_compile_passes_on_is_what_begin_takes() -> None:
    own = {"model", "budget", "target", "out", "ops", "held_out"}
    assert set(Given.__annotations__) == set(inspect.signature(lanac.begin).parameters) - own


@pytest.mark.parametrize(
    ("emit", "target", "names"),
    [
        (None, "cpu", ("pytorch", "onnx")),
        (None, "cpu:openvino", ("pytorch", "onnx", "openvino")),
        (None, "v100", ("pytorch", "onnx", "tensorrt")),
        (None, "rtx3090:pytorch", ("pytorch", "onnx")),
        (" onnx, triton,onnx", "v100", ("onnx", "triton")),
        (["pytorch"], "v100", ("pytorch",)),
    ],
)
def test_outputs_fit_the_target(
    emit: str | list[str] | None, target: str, names: tuple[str, ...]
) -> None:
    assert parse_outputs(emit, parse_target(target)) == names
