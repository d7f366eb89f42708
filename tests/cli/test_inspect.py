"""`lanac inspect`: the slots of a network, for people and for programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lanac as library
from lanac.frontend.model_file import load_model_file
from lanac.targets import devices

COUNTED = (
    "params and flops are counted, for one sample; a multiplication with its addition is two flops"
)
TABLE = """\
model: 7 slots, input 1x12x12
slot        kind  input     output     params    flops  of flops
stem        conv  1x12x12   16x12x12      176  41.47 k    0.6 % ▎
blocks.0    conv  16x12x12  16x12x12   4.67 k   1.33 M   20.8 % ██████
blocks.1    conv  16x12x12  16x12x12   4.67 k   1.33 M   20.8 % ██████
blocks.2    conv  16x12x12  32x6x6    14.53 k   1.03 M   16.2 % ████▋
blocks.3    conv  32x6x6    32x6x6    18.56 k   1.33 M   20.8 % ██████
blocks.4    conv  32x6x6    32x6x6    18.56 k   1.33 M   20.8 % ██████
classifier  head  32x6x6    4             132      256    0.0 %
outside                                     0        0    0.0 %
whole                                 61.30 k   6.38 M  100.0 %
"""


@pytest.fixture
def inspect(lanac):
    """Runs `lanac inspect`."""
    return lambda *arguments: lanac("inspect", *arguments, small=False)


def assert_refused(outcome, message):
    assert (outcome.status, outcome.out, outcome.err) == (1, "", f"lanac: {message}\n")


class TestTable:
    def test_counted(self, inspect, tiny):
        outcome = inspect(tiny, "--no-latency")
        assert (outcome.status, outcome.err) == (0, "")
        lines = [line.rstrip() for line in outcome.out.splitlines() if line.strip()]
        assert lines == [*TABLE.splitlines(), COUNTED]

    def test_measured(self, inspect, tiny):
        outcome = inspect(tiny)
        assert (outcome.status, outcome.err) == (0, "")
        assert re.search(r"^whole .* \d+\.\d{3} ms *$", outcome.out, re.MULTILINE)
        assert re.search(
            r"^latency is measured on this machine in ONNX Runtime \(cpu:onnxruntime:fp32:b1:t1, "
            r"CPU time\): each slot alone, scaled so that they add up to the whole; over networks "
            r"with slots skipped the sum is off by \d+\.\d % on average$",
            outcome.out,
            re.MULTILINE,
        )

    def test_left_out_and_why(self, inspect, write_model):
        path = write_model(
            "class Sharing(TinyNet):\n"
            "    def forward(self, x):\n"
            "        x = self.blocks[0](self.stem(x))\n"
            "        x = self.blocks[2](self.blocks[1](self.blocks[0](x)))\n"
            "        return self.classifier(x.mean((2, 3)))\n"
            "def model(): return Sharing()"
        )
        outcome = inspect(path, "--no-latency")
        assert outcome.status == 0
        assert outcome.out.count("blocks.0.conv1.weight is also used elsewhere") == 2

    def test_nothing_is_written(self, inspect, tiny):
        before = set(tiny.parent.rglob("*"))
        inspect(tiny, "--no-latency")
        assert {
            path for path in set(tiny.parent.rglob("*")) - before if path.suffix == ".py"
        } == set()
        assert not (tiny.parent / "model.lanac").exists()

    def test_a_runtime_that_refuses(self, inspect, tiny, monkeypatch):
        """Everything else is shown, and a warning says what is not."""
        from lanac.backends import onnxruntime
        from lanac.errors import BackendError

        def refuse(*_):
            raise BackendError("ONNX Runtime refuses the model: too new")

        monkeypatch.setattr(onnxruntime, "export_for_timing", refuse)
        outcome = inspect(tiny)
        assert outcome.status == 0
        assert (
            "! latency is not measured: the teacher cannot be timed on cpu:onnxruntime:fp32:b1:t1: "
            "ONNX Runtime refuses the model: too new" in outcome.out
        )
        assert "share of" not in outcome.out
        assert COUNTED in outcome.out

    def test_in_a_terminal_of_80_columns(self, trained, tmp_path):
        from rich.console import Console

        from lanac.report.inspection import show_inspection

        console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
        file = load_model_file(trained / "model.py")
        show_inspection(
            console, library.inspect(file.model, train_data=file.train_data, latency=False)
        )
        assert "│" not in console.export_text(clear=False)
        names = [line.split()[0] for line in console.export_text().splitlines() if line.strip()]
        assert names[2:9] == [
            "stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "classifier",
        ]  # fmt: skip


class TestJson:
    def test_nothing_else_on_standard_output(self, inspect, tiny):
        outcome = inspect(tiny, "--json")
        value = json.loads(outcome.out)
        assert set(value) == {
            "schema", "lanac", "model", "target", "inputs", "slots", "outside", "whole", "how",
            "latency_error", "left_out", "notes", "svg",
        }  # fmt: skip
        assert (value["schema"], value["model"]) == (1, "model")
        assert value["how"] == {
            "latency_ms": "measured", "params": "counted", "flops": "counted",
            "memory_bytes": "counted", "size_bytes": "counted",
        }  # fmt: skip
        total = sum(slot["latency_ms"] for slot in value["slots"]) + value["outside"]["latency_ms"]
        assert total == pytest.approx(value["whole"]["latency_ms"])
        shares = sum(slot["latency_share"] for slot in value["slots"])
        assert shares + value["outside"]["latency_share"] == pytest.approx(1)

    def test_a_slot(self, inspect, tiny):
        value = json.loads(inspect(tiny, "--json", "--no-latency").out)
        slot = value["slots"][3]
        nodes = slot.pop("nodes")
        assert len(nodes) == 9
        assert slot == {
            "name": "blocks.2", "kind": "conv",
            "layers": "conv 3x3 /2, conv 3x3, conv 1x1 /2 + skip",
            "input": {"shape": [16, 12, 12], "dtype": "float32"},
            "output": {"shape": [32, 6, 6], "dtype": "float32"},
            "params": 14528, "flops": 1032192, "memory_bytes": 18432,
            "size_bytes": 58880,
            "latency_ms": None, "latency_share": None,
        }  # fmt: skip
        assert value["inputs"] == [{"shape": [1, 12, 12], "dtype": "float32"}]
        assert value["whole"]["params"] == 61300
        assert value["how"]["latency_ms"] is None

    def test_beside_a_picture(self, inspect, tiny):
        value = json.loads(inspect(tiny, "--json", "--no-latency", "--svg", "net.svg").out)
        assert value["svg"] == "net.svg"
        assert Path("net.svg").read_text().startswith("<svg ")

    def test_in_a_process_of_its_own(self, tiny):
        """Progress does not get in the way."""
        done = subprocess.run(
            [sys.executable, "-m", "lanac", "inspect", str(tiny), "--json"],
            capture_output=True, text=True, cwd=Path(library.__file__).parents[1],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["whole"]["latency_ms"] > 0


class TestPicture:
    def test_is_named(self, inspect, tiny):
        outcome = inspect(tiny, "--no-latency", "--svg", "net.svg")
        assert outcome.out.splitlines()[-1] == "drawn in net.svg"

    def test_is_the_same_twice(self, inspect, tiny):
        for name in ("one.svg", "two.svg"):
            inspect(tiny, "--no-latency", "--svg", name)
        assert Path("one.svg").read_bytes() == Path("two.svg").read_bytes()

    @pytest.mark.parametrize("name", ["net.png", "model.py", "net"])
    def test_no_svg(self, inspect, tiny, name):
        text = tiny.read_text()
        assert_refused(
            inspect(tiny, "--svg", name),
            f"--svg '{name}': expected the name of an .svg file to write",
        )
        assert tiny.read_text() == text

    def test_folder_does_not_exist(self, inspect, tiny):
        assert_refused(
            inspect(tiny, "--svg", "pictures/net.svg"),
            "--svg 'pictures/net.svg': the folder 'pictures' does not exist",
        )


class TestInput:
    def test_only_model_and_example_inputs(self, inspect, tmp_path):
        (tmp_path / "net.py").write_text(
            "import torch\n"
            "def model(): return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())\n"
            "def example_inputs(): return torch.zeros(2, 8)\n"
        )
        outcome = inspect("net.py", "--no-latency")
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("net: 1 slot, input 8\n")

    def test_a_size_where_the_file_gives_none(self, inspect, tmp_path):
        (tmp_path / "net.py").write_text(
            "import torch\ndef model(): return torch.nn.Conv2d(3, 4, 3)\n"
        )
        assert inspect("net.py", "--no-latency", "--input-size", "3x8x8").status == 0
        assert_refused(
            inspect("net.py"),
            "net.py defines neither example_inputs() nor train_data(), so the shape of the "
            "network's input is unknown; define one of them, or give --input-size, such as "
            "3x224x224",
        )

    def test_a_network_by_name(self, inspect):
        pytest.importorskip("timm")
        outcome = inspect("timm:test_resnet", "--no-latency")
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("test_resnet: 8 slots, input 3x160x160\n")

    def test_example_inputs_are_no_tensors(self, inspect, write_model):
        path = write_model("def example_inputs(): return [1, 2]")
        assert_refused(
            inspect(path),
            "example_inputs(): the inputs are int, int; expected a tensor, a tuple of tensors, or a "
            "dict of tensors by the names of forward's arguments",
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--only", "blocs.*"), "--only 'blocs.*' fits no module of TinyNet; at the top it "
             "has blocks, classifier, stem (lanac inspect shows the slots)"),
            (("--skip", "stem,head"), "--skip 'head' fits no module of TinyNet; at the top it has "
             "blocks, classifier, stem (lanac inspect shows the slots)"),
            (("--granularity", "layers"), "granularity 'layers' is unknown; expected block or layer"),
            (("--target", "gpu"), "target 'gpu': unknown device 'gpu'. Did you mean 'cpu'? "
             f"Known: {', '.join(sorted(devices()))}. A device is an entry of "
             "lanac/targets/devices.toml; 'cpu' and 'cuda' stand for what this machine has"),
            (("--input-size", "1,12,12"), "--input-size '1,12,12' is malformed; expected the "
             "dimensions of one sample without the batch, such as 3x224x224"),
        ],
    )  # fmt: skip
    def test_bad(self, inspect, tiny, options, message):
        assert_refused(inspect(tiny, "--no-latency", *options), message)

    def test_unknown_option(self, inspect, tiny):
        outcome = inspect(tiny, "--latncy")
        assert outcome.status == 1
        assert outcome.err.endswith(" (lanac inspect --help lists the options)\n")
