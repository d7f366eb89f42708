"""What a MODEL on the command line may be; nothing here needs a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lanac.errors import DataError, LanacError, ModelFileError, SourceError
from lanac.frontend.sources import load_source, load_source_to_inspect, parse_size

LAYOUT = "expected DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg"
CLASSES = ("cat", "dog", "owl")
FILE = "from torch import nn\ndef model(): return nn.Linear(2, 2)\n"

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")


def write_images(folder: Path, classes: tuple[str, ...] = CLASSES, count: int = 2) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20 + number, 24), (40 * number, 9, 80)).save(
                folder / name / f"{number}.png"
            )
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network for three classes."""
    path = tmp_path_factory.mktemp("weights") / "three.safetensors"
    torch.manual_seed(3)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An image folder with a split."""
    for part in ("train", "val"):
        write_images(tmp_path / "images" / part)
    return tmp_path / "images"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for trained weights fails as it does without a network."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)


def refusal(text: str, data: Path | None = None) -> str:
    with pytest.raises(LanacError) as caught:
        load_source(text, data)
    return str(caught.value)


class TestNames:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("timm:", "MODEL 'timm:' is incomplete; expected timm:NAME or "
             "timm:NAME@FILE.safetensors"),
            ("torchvision:resnet18@", "MODEL 'torchvision:resnet18@' is incomplete; expected "
             "torchvision:NAME or torchvision:NAME@FILE.safetensors"),
            ("tim:resnet18", "unknown kind of model 'tim'. Did you mean 'timm'? Known: timm, "
             "torchvision. A file needs no prefix."),
            ("resnet18", "MODEL 'resnet18' is no file; expected model.py, timm:NAME or "
             "torchvision:NAME, such as timm:resnet18"),
        ],
    )  # fmt: skip
    def test_malformed(self, text: str, message: str) -> None:
        assert refusal(text) == message

    @pytest.mark.parametrize(
        ("text", "start"),
        [
            ("timm:resnet17d", "timm has no network 'resnet17d'. Did you mean timm:resnet"),
            ("torchvision:rasnet18", "torchvision has no network 'rasnet18'. Did you mean "
             "torchvision:resnet18 or torchvision:resnet"),
        ],
    )  # fmt: skip
    def test_unknown(self, text: str, start: str) -> None:
        message = refusal(text)
        assert message.startswith(start)
        assert message.endswith(" others.")

    def test_unknown_tag(self) -> None:
        assert refusal("timm:test_resnet.best") == (
            "timm:test_resnet has no weights with the tag 'best'; known: r160_in1k"
        )

    @pytest.mark.parametrize("package", ["timm", "torchvision"])
    def test_the_package_is_missing(self, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        assert refusal(f"{package}:resnet18") == (
            f'{package}:resnet18 needs the package {package}: pip install "lanac[zoo]"'
        )

    def test_a_file_is_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "timm.py").write_text(FILE + "def train_data(): return [1]\n")
        assert load_source("timm.py").name == "timm"
        with pytest.raises(ModelFileError, match=r"^model file 'inspect\.py' does not exist; "):
            load_source("inspect.py")


class TestData:
    @pytest.mark.parametrize("text", ["timm:test_resnet", "torchvision:resnet18"])
    def test_is_missing(self, text: str) -> None:
        assert refusal(text) == (
            f"{text} needs images to learn from: --data DIR, with DIR/train/CLASS/*.jpg and "
            "DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg. For data of another kind write a model.py"
        )

    def test_is_not_for_a_file(self, tmp_path: Path, images: Path) -> None:
        path = tmp_path / "model.py"
        path.write_text(FILE)
        assert refusal(str(path), images) == (
            f"--data is for timm: and torchvision: networks; {path} gives its own data: let its "
            "train_data() read the folder"
        )

    def test_folder_does_not_exist(self, tmp_path: Path) -> None:
        folder = tmp_path / "nothing"
        assert refusal("timm:test_resnet", folder) == (
            f"--data {str(folder)!r} does not exist; {LAYOUT}"
        )

    def test_folder_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_text("")
        assert refusal("timm:test_resnet", tmp_path / "a.jpg") == (
            f"--data {str(tmp_path / 'a.jpg')!r} is no folder; {LAYOUT}"
        )

    def test_no_classes(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_text("")
        assert refusal("timm:test_resnet", tmp_path) == (
            f"--data: {str(tmp_path)!r} has no class folders; {LAYOUT}"
        )

    def test_no_training_images(self, tmp_path: Path) -> None:
        write_images(tmp_path / "val")
        assert refusal("timm:test_resnet", tmp_path) == (
            f"--data {str(tmp_path)!r} has a folder val but no train; {LAYOUT}"
        )

    def test_empty_class(self, images: Path) -> None:
        (images / "train" / "elk").mkdir()
        assert refusal("timm:test_resnet", images) == (
            f"--data: class folder {str(images / 'train' / 'elk')!r} has no images; expected at "
            "least one of .jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp. Remove the "
            "folder, or put its images there"
        )

    def test_validation_images_have_other_classes(self, images: Path) -> None:
        (images / "val" / "owl").rename(images / "val" / "elk")
        assert refusal("timm:test_resnet", images) == (
            f"--data {str(images)!r}: train has 3 classes, val has 3 ('owl' only in train, 'elk' "
            "only in val); expected the same ones"
        )

    def test_wrong_number_of_classes(self, tmp_path: Path, weights: Path) -> None:
        folder = write_images(tmp_path / "two", ("cat", "dog"))
        assert refusal(f"timm:test_resnet@{weights}", folder) == (
            f"--data: {str(folder)!r} has 2 class folders (cat, dog), timm:test_resnet has 3 "
            "outputs; expected one folder per output, in the order of the outputs when sorted by "
            "name. For a network trained on your own classes give its weights: "
            "timm:test_resnet@FILE.safetensors"
        )


class TestTrainedWeights:
    @pytest.mark.usefixtures("offline")
    @pytest.mark.parametrize("text", ["timm:test_resnet", "torchvision:resnet18"])
    def test_cannot_be_downloaded(self, images: Path, text: str) -> None:
        assert refusal(text, images) == (
            f"the trained weights of {text} cannot be loaded: OSError: Name or service not known. "
            f"Check the network; without one give them as a file: {text}@FILE.safetensors"
        )

    def test_do_not_exist_for_this_name(self, images: Path) -> None:
        assert refusal("timm:botnet50ts_256", images) == (
            "timm has no trained weights for 'botnet50ts_256', and lanac accelerates trained "
            "networks. Give your own: timm:botnet50ts_256@FILE.safetensors"
        )

    def test_of_ones_own(self, images: Path, weights: Path) -> None:
        """The number of classes is that of the checkpoint."""
        source = load_source(f"timm:test_resnet@{weights}", images)
        expected = timm.create_model("test_resnet", num_classes=3)
        torch.manual_seed(3)
        expected = timm.create_model("test_resnet", num_classes=3).eval()
        inputs = torch.randn(2, 3, 160, 160)
        assert torch.equal(source.model.eval()(inputs), expected(inputs))
        assert source.name == "test_resnet"

    def test_of_ones_own_for_torchvision(self, tmp_path: Path, images: Path) -> None:
        path = tmp_path / "squeeze.safetensors"
        network = torchvision.models.squeezenet1_1(num_classes=3)
        save_file(network.state_dict(), path)
        source = load_source(f"torchvision:squeezenet1_1@{path}", images)
        inputs = torch.randn(2, 3, 64, 64)
        assert torch.equal(source.model.eval()(inputs), network.eval()(inputs))

    @pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "pkl", "ckpt"])
    def test_a_pickle_is_not_loaded(self, tmp_path: Path, images: Path, suffix: str) -> None:
        path = tmp_path / f"teacher.{suffix}"
        torch.save({"weight": torch.zeros(1)}, path)
        new = str(tmp_path / "teacher.safetensors")
        assert refusal(f"timm:test_resnet@{path}", images) == (
            f"weights {str(path)!r} are no safetensors file. Other checkpoints are pickles, which "
            "can execute code when they are loaded; lanac loads none. Convert it once:\n\n"
            '    python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load({str(path)!r}, map_location='cpu', weights_only=True), "
            f'{new!r})"\n\n'
            "(where the file holds more than the weights, save only those: its 'state_dict' or "
            "'model')"
        )

    def test_missing(self, images: Path) -> None:
        assert refusal("timm:test_resnet@teacher.safetensors", images) == (
            "weights 'teacher.safetensors' do not exist; expected a safetensors file"
        )

    def test_damaged(self, tmp_path: Path, images: Path) -> None:
        path = tmp_path / "teacher.safetensors"
        path.write_bytes(b"no weights")
        message = refusal(f"timm:test_resnet@{path}", images)
        assert message.startswith(f"weights {str(path)!r} cannot be read: ")
        assert message.endswith("; the file may be damaged or not be a safetensors file")

    def test_of_another_network(self, tmp_path: Path, images: Path) -> None:
        path = tmp_path / "teacher.safetensors"
        state = timm.create_model("test_resnet").state_dict()
        state["conv1.0.weight"] = torch.zeros(1, 2, 3)
        save_file({"extra": torch.zeros(1), **state}, path)
        assert refusal(f"timm:test_resnet@{path}", images) == (
            f"the weights {str(path)!r} do not fit timm:test_resnet: 1 unknown (extra); 1 "
            "misshapen (conv1.0.weight: (1, 2, 3), expected (16, 3, 3, 3)). Is it another network? "
            "For one that was changed write a model.py"
        )


class TouchesAFile:
    """What a pickle can hide: code that runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)


def test_a_downloaded_pickle_executes_nothing(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision itself would load it as it comes."""
    touched = tmp_path / "touched"
    torch.save({"conv1.weight": TouchesAFile(touched)}, tmp_path / "evil.pth")

    def download(url: str, **_: object) -> object:
        return torch.load(tmp_path / "evil.pth", weights_only=False)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    message = refusal("torchvision:resnet18", images)
    assert message.startswith("the trained weights of torchvision:resnet18 cannot be loaded: ")
    assert "UnpicklingError" in message
    assert not touched.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


class TestImages:
    def test_split(self, images: Path, weights: Path) -> None:
        """The network's own size and normalisation; classes in sorted order."""
        source = load_source(f"timm:test_resnet@{weights}", images)
        sample, label = source.train_data.dataset[5]
        assert (len(source.train_data.dataset), len(source.val_data.dataset)) == (6, 6)
        assert (tuple(sample.shape), label) == ((3, 160, 160), 2)
        # Image 1 of a class is (40, 9, 80) everywhere; this network wants mean and deviation 0.5.
        expected = (torch.tensor([40, 9, 80]) / 255 - 0.5) / 0.5
        assert torch.allclose(sample[:, 80, 80], expected, atol=1e-5)

    def test_no_split(self, tmp_path: Path, weights: Path) -> None:
        source = load_source(f"timm:test_resnet@{weights}", write_images(tmp_path / "all"))
        assert len(source.train_data.dataset) == 6
        assert source.val_data is None

    def test_segmentation_takes_images_without_labels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There the folders say nothing; all images get one size."""
        from lanac.frontend import zoo_torchvision

        def build(*_: object, **__: object) -> nn.Module:
            return nn.Conv2d(3, 21, 1)

        monkeypatch.setattr(zoo_torchvision.TorchvisionZoo, "build", build)
        folder = write_images(tmp_path / "any", ("images",))
        source = load_source("torchvision:fcn_resnet50", folder)
        (sample,) = source.train_data.dataset[1]
        assert tuple(sample.shape) == (3, 520, 520)


class TestToInspect:
    @pytest.mark.usefixtures("offline")
    @pytest.mark.parametrize(
        ("text", "shape"),
        [
            ("timm:test_resnet", (2, 3, 160, 160)),
            ("torchvision:squeezenet1_1", (2, 3, 224, 224)),
            ("torchvision:lraspp_mobilenet_v3_large", (2, 3, 520, 520)),
        ],
    )
    def test_nothing_is_downloaded(self, text: str, shape: tuple[int, ...]) -> None:
        source = load_source_to_inspect(text)
        assert tuple(source.example_inputs.shape) == shape
        assert source.train_data is None

    @pytest.mark.usefixtures("offline")
    def test_trained_weights_where_asked_for(self) -> None:
        with pytest.raises(SourceError, match=r"^the trained weights of timm:test_resnet cannot "):
            load_source_to_inspect("timm:test_resnet", trained=True)

    def test_another_size(self) -> None:
        source = load_source_to_inspect("timm:test_resnet", (3, 64, 96))
        assert tuple(source.example_inputs.shape) == (2, 3, 64, 96)

    def test_a_network_that_says_no_size(self) -> None:
        with pytest.raises(SourceError) as caught:
            load_source_to_inspect("torchvision:fasterrcnn_mobilenet_v3_large_fpn")
        assert str(caught.value) == (
            "torchvision:fasterrcnn_mobilenet_v3_large_fpn does not say what input it takes; give "
            "it: --input-size CxHxW, such as 3x224x224"
        )

    def test_a_file_needs_no_data(self, tmp_path: Path) -> None:
        path = tmp_path / "model.py"
        path.write_text(
            FILE + "def example_inputs(): return 'example'\n"
            "def train_data(): raise RuntimeError('not needed')\n"
        )
        assert load_source_to_inspect(str(path)).example_inputs == "example"
        path.write_text(FILE + "def train_data(): return 'data'\n")
        assert load_source_to_inspect(str(path)).train_data == "data"

    def test_a_file_without_inputs(self, tmp_path: Path) -> None:
        path = tmp_path / "model.py"
        path.write_text(FILE)
        with pytest.raises(SourceError) as caught:
            load_source_to_inspect(str(path))
        assert str(caught.value) == (
            f"{path} defines neither example_inputs() nor train_data(), so the shape of the "
            "network's input is unknown; define one of them, or give --input-size, such as "
            "3x224x224"
        )
        assert tuple(load_source_to_inspect(str(path), (2,)).example_inputs.shape) == (2, 2)

    def test_a_size_beside_a_files_own(self, tmp_path: Path) -> None:
        path = tmp_path / "model.py"
        path.write_text(FILE + "def train_data(): return [1]\n")
        with pytest.raises(SourceError) as caught:
            load_source_to_inspect(str(path), (2,))
        assert str(caught.value) == (
            f"--input-size is for networks that give no inputs of their own; {path} defines "
            "train_data(): change it there"
        )

    def test_sizes(self) -> None:
        assert parse_size("3x224x192") == (3, 224, 192)
        assert parse_size("784") == (784,)
        for text in ("3,224", "0x3", "3x", "", "axb"):
            with pytest.raises(SourceError) as caught:
                parse_size(text)
            assert str(caught.value) == (
                f"--input-size {text!r} is malformed; expected the dimensions of one sample "
                "without the batch, such as 3x224x224"
            )


def test_images_are_no_pickles_and_broken_ones_are_named(tmp_path: Path, weights: Path) -> None:
    from lanac.training.data import Data

    folder = write_images(tmp_path / "all")
    (folder / "cat" / "0.png").write_bytes(b"no image")
    source = load_source(f"timm:test_resnet@{weights}", folder)
    with pytest.raises(DataError, match="UnidentifiedImageError: cannot identify image file"):
        Data.of(source.train_data, "train_data()")
