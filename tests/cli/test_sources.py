"""Networks by name, and what becomes a slot, from the command line to the passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lanac.frontend import image_folder
from lanac.frontend.partition import SlotOptions
from lanac.passes import trace_program


def test_a_network_by_name_becomes_a_student(lanac, tmp_path, monkeypatch):
    """With one's own weights and classes; without any file, and without the internet."""
    timm = pytest.importorskip("timm")
    image = pytest.importorskip("PIL.Image")
    from safetensors.torch import save_file

    # Worker processes leave by os._exit, which the fixture has replaced.
    monkeypatch.setattr(image_folder, "_WORKERS", 0)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), "mine.safetensors")
    for part, count in (("train", 12), ("val", 3)):
        for place, name in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                colour = (20 * number, 100 * place, 50)
                image.new("RGB", (160, 160), colour).save(folder / f"{number}.png")
    outcome = lanac(
        "timm:test_resnet@mine.safetensors", "--data", "images", "--budget", "flops=0.8x",
        "--pool", "skip", "--emit", "pytorch",
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    assert "top-1 (6 samples)" in outcome.out
    plan = json.loads(Path("test_resnet.lanac/flops-0.8x@cpu/plan.json").read_text())
    assert plan["slots"][0]["input"] == "f32[N,3,160,160]"
    assert plan["slots"][-1]["output"] == "f32[N,2]"


def test_a_network_by_name_without_images(lanac):
    pytest.importorskip("timm")
    outcome = lanac("timm:test_resnet")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("lanac: timm:test_resnet needs images to learn from: --data DIR")
    assert not Path("test_resnet.lanac").exists()


def test_images_for_a_file(lanac, tiny):
    outcome = lanac(tiny, "--data", "images")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("lanac: --data is for timm: and torchvision: networks; ")


@pytest.mark.parametrize("command", [(), ("inspect",)])
def test_what_becomes_a_slot_reaches_the_partition(lanac, tiny, monkeypatch, command):
    class Reached(Exception):
        pass

    def build_program(_model, _inputs, _names, options):
        raise Reached(options)

    monkeypatch.setattr(trace_program, "build_program", build_program)
    with pytest.raises(Reached) as caught:
        lanac(
            *command, tiny, "--granularity", "layer", "--only", "blocks.*,stem", "--only",
            "classifier", "--skip", "blocks.2", small=False,
        )  # fmt: skip
    assert caught.value.args == (
        SlotOptions("layer", ("blocks.*", "stem", "classifier"), ("blocks.2",)),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--skip", "head"), "--skip 'head' fits no module of TinyNet; at the top it has blocks, "
         "classifier, stem (lanac inspect shows the slots)"),
        (("--granularity", "blok"), "granularity 'blok' is unknown; expected block or layer"),
    ],
)  # fmt: skip
def test_bad_choice_of_slots(lanac, tiny, options, message):
    outcome = lanac(tiny, *options)
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")
    assert not (tiny.parent / "model.lanac" / "lanac.json").exists()
