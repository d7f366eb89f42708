"""What bad input gets: exit status 1 and one clear message on stderr, before any work is lost."""

from __future__ import annotations

import contextlib
import re
import sqlite3

import pytest

from lanac.ops.pool import known_pool_names
from lanac.targets import devices

OUTPUTS = "onnx, onnx_bf16, onnx_fp16, openvino, pytorch, tensorrt, tensorrt_rtx, triton"
POOLS = ", ".join(known_pool_names())
NEEDS = """a model file needs at least

    def model():       # the trained teacher, a torch.nn.Module
    def train_data():  # a torch Dataset of (input, target)"""
FORMS = "expected a form such as 0.5x, 12ms, params=5M, flops=0.6x or 0.5x+params=5M"
ACCEPTED = (
    "expected a torch Dataset of (input, target) pairs, a DataLoader over one, "
    "or a pair of tensors (inputs, targets)"
)
INPUTS = "a tensor, a tuple of tensors, or a dict of tensors by the names of forward's arguments"
MISFIT = "Give labels that fit, or define loss(outputs, targets) in the model file."
LOGITS = "fails on the network's outputs ((8, 4) torch.float32)"


def assert_refused(outcome, message):
    """Status 1, and exactly this message on stderr: so there is no traceback either."""
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")


def assert_untrained(folder):
    """Nothing was distilled: the message came before hours of work, not after."""
    assert rows(folder, "distilled") == rows(folder, "distilling") == 0


def rows(folder, kind):
    """How many results of a kind a workspace holds."""
    index = folder / "workspace" / "index.sqlite"
    if not index.exists():
        return 0
    with contextlib.closing(sqlite3.connect(index)) as connection:
        return connection.execute(
            "SELECT COUNT(*) FROM results WHERE kind = ?", (kind,)
        ).fetchone()[0]


class TestModelFile:
    def test_does_not_exist(self, lanac):
        assert_refused(lanac("nothing.py"), f"model file 'nothing.py' does not exist; {NEEDS}")

    def test_is_not_python(self, lanac, tmp_path):
        (tmp_path / "model.txt").write_text("")
        assert_refused(lanac("model.txt"), f"model file 'model.txt' is not a .py file; {NEEDS}")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("def train_data(): ...", f"m.py has no function model(); {NEEDS}"),
            ("import torch\ndef model(): return torch.nn.ReLU()",
             f"m.py has no function train_data(); {NEEDS}"),
            ("model = 3", "m.py: model is int, expected a function"),
            ("def model(): return {}", "m.py: model() returned dict, expected a torch.nn.Module"),
            ("def model():\n    return open('/nowhere/teacher.pt')",
             "m.py, line 2: model() failed: FileNotFoundError: [Errno 2] No such file or "
             "directory: '/nowhere/teacher.pt'"),
            ("\n\nimport tensorflow_of_tomorrow", "m.py, line 3: importing the file failed: "
             "ModuleNotFoundError: No module named 'tensorflow_of_tomorrow'"),
            ("def model(:", "m.py, line 1: invalid syntax"),
            ("import sys\nsys.exit(3)", "m.py, line 2: importing the file failed: SystemExit: 3"),
        ],
    )  # fmt: skip
    def test_is_broken(self, lanac, tmp_path, text, message):
        (tmp_path / "m.py").write_text(text)
        assert_refused(lanac("m.py"), message)

    def test_model_fails_on_its_example_input(self, lanac, write_model):
        path = write_model("def example_inputs(): return torch.zeros(2, 3, 12, 12)")
        outcome = lanac(path)
        assert_refused(
            outcome,
            "the model fails on its example input of shape (2, 3, 12, 12): RuntimeError: Given "
            "groups=1, weight of size [16, 1, 3, 3], expected input[2, 3, 12, 12] to have 1 "
            "channels, but got 3 channels instead. Check that train_data() (or example_inputs()) "
            "gives what model() expects.",
        )
        assert_untrained(path.parent / "model.lanac")

    def test_model_fails_on_its_training_data(self, lanac, write_model):
        path = write_model(
            "def train_data(): return torch.zeros(50, 3, 12, 12), torch.zeros(50, dtype=torch.long)"
        )
        assert_refused(
            lanac(path),
            "the model fails on the first samples of train_data(), of shape (8, 3, 12, 12): "
            "RuntimeError: Given groups=1, weight of size [16, 1, 3, 3], expected input[8, 3, 12, "
            "12] to have 1 channels, but got 3 channels instead. Check that train_data() "
            "gives what model() expects.",
        )

    def test_example_inputs_are_no_tensors(self, lanac, write_model):
        path = write_model("def example_inputs(): return [1, 2]")
        assert_refused(lanac(path), f"example_inputs(): the inputs are int, int; expected {INPUTS}")

    def test_model_cannot_be_traced(self, lanac, write_model):
        path = write_model(
            "class Branching(TinyNet):\n"
            "    def forward(self, x):\n"
            "        return super().forward(x if x.sum() > 0 else -x)\n"
            "def model(): return Branching()"
        )
        outcome = lanac(path)
        assert outcome.status == 1
        line = path.read_text().splitlines().index("class Branching(TinyNet):") + 3
        assert outcome.err == (
            "lanac: Branching cannot be traced: a condition depends on the values of a tensor, in "
            f"{path}, line {line}: return super().forward(x if x.sum() > 0 else -x). Move this out "
            "of forward(), or into a module of its own, which lanac then keeps as it is.\n"
        )

    def test_teacher_gives_nan(self, lanac, write_model):
        path = write_model(
            "def model():\n"
            "    network = TinyNet()\n"
            "    torch.nn.init.constant_(network.classifier.bias, float('nan'))\n"
            "    return network"
        )
        assert_refused(
            lanac(path),
            "the teacher's output 'output' of shape (8, 4) has 32 values that are NaN or infinite, "
            "on the first samples of train_data(); expected finite numbers. Check the weights that "
            "model() loads and the normalisation of the inputs.",
        )


class TestData:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("None", "train_data() gave nothing; expected a torch Dataset of (input, target)"),
            ("[]", f"train_data() is empty; {ACCEPTED}"),
            ("TensorDataset(torch.zeros(0, 1))", f"train_data() is empty; {ACCEPTED}"),
            ("(x for x in images(600, 1))",
             f"train_data() gave generator, which cannot be indexed; {ACCEPTED}"),
            ("42", f"train_data() gave int, which cannot be indexed; {ACCEPTED}"),
            ("{'train': images(600, 1)}", "train_data() gave a dict with the keys 'train', "
             f"which cannot be indexed by number; {ACCEPTED}. Give one of its values, or the samples "
             "one by one: each may be a dict."),
            ("['a cat'] * 50", f"train_data(): the inputs are str; expected {INPUTS}"),
            ("images(12, 1)", "train_data() has 12 samples; lanac needs at least 20"),
            ("(images(60, 1)[0], images(50, 1)[1])",
             "train_data(): tensors of different lengths [50, 60]"),
            ("TensorDataset(*images(60, 1), torch.zeros(60))",
             "train_data(): a sample has 3 parts, expected (input, target); several inputs go into "
             "one tuple: ((input, input), target)"),
        ],
    )  # fmt: skip
    def test_is_missing_or_of_the_wrong_kind(self, lanac, write_model, data, message):
        path = write_model(f"def train_data(): return {data}")
        assert_refused(lanac(path), message)
        assert_untrained(path.parent / "model.lanac")

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ("torch.full((60,), 7)", "the default loss, cross-entropy, "
             f"{LOGITS} and the labels of train_data() ((8,) torch.int64 from 7 to 7): "
             f"Target 7 is out of bounds. {MISFIT}"),
            ("torch.full((60,), 0.5)", "the default loss, cross-entropy, "
             f"{LOGITS} and the labels of train_data() ((8,) torch.float32 from 0.5 to 0.5): "
             f"expected target dtype to be Long or Byte, but got Float. {MISFIT}"),
            ("torch.zeros(60, 3, dtype=torch.long)", "the default loss, cross-entropy, "
             f"{LOGITS} and the labels of train_data() ((8, 3) torch.int64 from 0 to 0): "
             f"0D or 1D target tensor expected, multi-target not supported. {MISFIT}"),
        ],
    )  # fmt: skip
    def test_labels_do_not_fit_the_loss(self, lanac, write_model, labels, message):
        path = write_model(f"def train_data(): return images(60, 1)[0], {labels}")
        assert_refused(lanac(path), message)
        assert_untrained(path.parent / "model.lanac")

    def test_a_late_label_does_not_fit_the_loss(self, lanac, write_model):
        """The first samples are right, one in the middle of the data is not."""
        path = write_model(
            "def train_data():\n"
            "    inputs, labels = images(600, 1)\n"
            "    labels[300] = 9\n"
            "    return inputs, labels"
        )
        outcome = lanac(path, "--budget", "flops=0.6x", "--score-samples", "540")
        assert outcome.status == 1
        assert re.fullmatch(
            r"lanac: the default loss, cross-entropy, fails on the network's outputs "
            r"\(\(\d+, 4\) torch.float32\) and the labels of train_data\(\) \(\(\d+,\) torch.int64 "
            rf"from 0 to 9\): Target 9 is out of bounds. {re.escape(MISFIT)}\n",
            outcome.err,
        )

    def test_own_loss_raises(self, lanac, write_model):
        path = write_model("def loss(outputs, targets): return outputs.logits.mean()")
        outcome = lanac(path)
        assert outcome.status == 1
        assert outcome.err.startswith(f"lanac: loss() {LOGITS} and the labels of train_data()")

    def test_own_loss_is_no_scalar(self, lanac, write_model):
        path = write_model("def loss(outputs, targets): return outputs")
        assert_refused(
            lanac(path),
            "loss() returned a tensor of shape (8, 4), expected a scalar: the mean over the batch",
        )

    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            ("outputs.logits", "AttributeError: 'Tensor' object has no attribute 'logits'"),
            ("outputs", "ValueError: only one element tensors can be converted to Python scalars"),
            (
                "None",
                "TypeError: float() argument must be a string or a real number, not 'NoneType'",
            ),
        ],
    )
    def test_own_metric_fails(self, lanac, write_model, body, problem):
        """Found before any training: the metric is used only after the first epoch."""
        path = write_model(f"def metric(outputs, targets): return {body}")
        assert_refused(
            lanac(path),
            f"metric() fails on the teacher's outputs and the labels of train_data(): {problem}. "
            "Expected metric(outputs, targets) that returns a number, higher is better.",
        )
        assert_untrained(path.parent / "model.lanac")

    def test_default_metric_does_not_fit_the_labels(self, lanac, write_model):
        path = write_model(
            "def train_data(): return images(60, 1)[0], torch.full((60, 4), 0.25)\n"
            "def val_data(): return train_data()"
        )
        assert_refused(
            lanac(path),
            "the default metric, top-1, does not fit the teacher's outputs and the labels of "
            "train_data(): expected whole numbers of shape (8,), got (8, 4) torch.float32. "
            "Define metric(outputs, targets) in the model file.",
        )

    def test_validation_data_do_not_fit_the_model(self, lanac, write_model):
        """Found before any training: they are used only at the very end."""
        path = write_model(
            "def val_data(): return torch.zeros(50, 3, 12, 12), torch.zeros(50).long()"
        )
        assert_refused(
            lanac(path),
            "the model fails on the first samples of val_data(), of shape (8, 3, 12, 12): "
            "RuntimeError: Given groups=1, weight of size [16, 1, 3, 3], expected input[8, 3, 12, "
            "12] to have 1 channels, but got 3 channels instead. Check that val_data() gives what "
            "model() expects.",
        )
        assert_untrained(path.parent / "model.lanac")

    def test_validation_data_lack_labels(self, lanac, write_model):
        path = write_model("def val_data(): return TensorDataset(images(50, 3)[0])")
        assert_refused(
            lanac(path, "--budget", "flops=0.6x"),
            "val_data() has no labels, train_data() has; give val_data() labels too",
        )


class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--target", "gpu"), "target 'gpu': unknown device 'gpu'. Did you mean 'cpu'? "
             f"Known: {', '.join(sorted(devices()))}. A device is an entry of "
             "lanac/targets/devices.toml; 'cpu' and 'cuda' stand for what this machine has"),
            (("--target", "cpu:onnxruntine"), "target 'cpu:onnxruntine': unknown part "
             "'onnxruntine'. Did you mean 'onnxruntime'? Known: bN (batch), bf16, fp16, fp32, "
             "inductor, int8, onnxruntime, openvino, pytorch, tN (threads)."),
            (("--target", "cpu:fp16"), "target 'cpu:fp16': onnxruntime on cpu computes in fp32, not "
             "in fp16"),
            (("--target", "cpu:b0"), "target 'cpu:b0': the batch must be at least 1, got 'b0'"),
            (("--pool", "defualt"), "unknown pool or op family 'defualt'. Did you mean 'default'? "
             f"Known: {POOLS}."),
            (("--pool", ","), f"pool ',' is empty; known: {POOLS}"),
            (("--emit", "onxx"), "unknown output 'onxx'. Did you mean 'onnx'? "
             f"Known: {OUTPUTS}."),
            (("--emit", ""), f"no output is asked for; known: {OUTPUTS}"),
            (("--emit", "tensorrt_rtx"), "output 'tensorrt_rtx' cannot be written here: "
             "TensorRT-RTX runs on NVIDIA GPUs, and cpu is none"),
            (("--emit", "tensorrt_rtx", "--target", "h100"), "output 'tensorrt_rtx' cannot be "
             "written here: TensorRT-RTX does not support NVIDIA H100 SXM5 80 GB (compute "
             "capability 9.0)"),
            (("--target", "v100:tensorrt11"), "target 'v100:tensorrt11': TensorRT 11.0 does not "
             "support NVIDIA V100 SXM2 16 GB; the last one that does is 10.4, and without a number "
             "that is taken"),
            (("--device", "tpu"), "--device 'tpu': expected auto, cpu or cuda"),
            (("--threads", "0"), "--threads 0: expected at least 1"),
        ],
    )  # fmt: skip
    def test_unknown(self, lanac, tiny, arguments, message):
        assert_refused(lanac(tiny, *arguments), message)
        assert not (tiny.parent / "model.lanac").exists()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--budgte", "0.5x"), ("--budgte", "--budget")),
            (("--seed", "one"), ("--seed", "integer")),
            (("--plans", "0"), ("--plans",)),
            (("second.py",), ("second.py",)),
        ],
    )
    def test_unknown_option(self, lanac, tiny, arguments, words):
        """The sentence is typer's, and differs between its versions."""
        outcome = lanac(tiny, *arguments, small=False)
        assert outcome.status == 1
        assert outcome.err.count("\n") == 1
        assert outcome.err.startswith("lanac: ")
        assert outcome.err.endswith(" (lanac --help lists the options)\n")
        assert all(word in outcome.err for word in words)

    def test_unknown_option_of_an_op(self, lanac, tiny):
        assert_refused(
            lanac(tiny, "--pool", "efn(e=3,k=3,sse=0)", "--budget", "flops=0.6x"),
            "op 'efn(e=3,k=3,sse=0)': unknown option of efn 'sse'. Did you mean 'se' or 'e'? "
            "Known: e, k, se.",
        )


class TestBudget:
    @pytest.mark.parametrize(
        ("budget", "message"),
        [
            ("fast", f"budget 'fast' is malformed; {FORMS}"),
            ("-1x", f"budget '-1x' is malformed; {FORMS}"),
            ("0.5x+", f"budget '' is malformed; {FORMS}"),
            ("", f"budget '' is empty; {FORMS}"),
            ("0x", f"budget '0x' is zero, which no network meets; {FORMS}"),
            ("1.5x", "budget '1.5x' is not below the teacher's own cost (1x); "
             "give a share between 0 and 1"),
            ("1x", "budget '1x' is not below the teacher's own cost (1x); "
             "give a share between 0 and 1"),
            ("12sec", "budget '12sec': unknown unit 'sec' for latency; known: x, ms, us, s"),
            ("speed=0.5x", "budget 'speed=0.5x': unknown resource 'speed'. "
             "Known: energy, flops, latency, memory, params, size."),
            ("0.5x+3ms", "budget '0.5x+3ms' limits latency_ms twice"),
            ("0.5x,0.5x", "budget '0.5x,0.5x' names one budget twice"),
        ],
    )  # fmt: skip
    def test_malformed_or_out_of_range(self, lanac, tiny, budget, message):
        assert_refused(lanac(tiny, "--budget", budget), message)
        assert not (tiny.parent / "model.lanac").exists()

    def test_above_the_teachers_own_params(self, lanac, tiny):
        assert_refused(
            lanac(tiny, "--budget", "params=5M"),
            "budget 'params=5M': the teacher already costs only 61.30 k params; "
            "give a limit below that",
        )
        assert_untrained(tiny.parent / "model.lanac")

    def test_above_the_teachers_own_latency(self, lanac, tiny):
        outcome = lanac(tiny, "--budget", "10s", "--pool", "skip")
        assert outcome.status == 1
        assert re.fullmatch(
            r"lanac: budget '10s': the teacher already costs only [\d.]+ ms; "
            r"give a limit below that\n",
            outcome.err,
        )
        assert_untrained(tiny.parent / "model.lanac")

    def test_infeasible(self, lanac, tiny):
        assert_refused(
            lanac(tiny, "--budget", "params=0.001x"),
            "budget params=0.001x cannot be met. params: the smallest reachable is 607 params "
            "(0.010x), the limit is 61 params (0.001x). Give a larger budget, or a larger pool (--pool).",
        )
        assert_untrained(tiny.parent / "model.lanac")

    def test_infeasible_beside_a_feasible_one(self, lanac, tiny):
        outcome = lanac(tiny, "--budget", "params=0.6x,params=0.001x")
        assert outcome.status == 1
        assert outcome.err.startswith("lanac: budget params=0.001x cannot be met. ")
        assert_untrained(tiny.parent / "model.lanac")

    def test_infeasible_memory(self, lanac, tiny):
        """Peak memory is a maximum, not a sum: the solver does not see that limit."""
        assert_refused(
            lanac(tiny, "--budget", "memory=0.01x", "--pool", "skip"),
            "budget memory=0.01x cannot be met. memory: the smallest reachable is 18.43 kB "
            "(0.667x), the limit is 276 B (0.010x). Give a larger budget, or a larger pool (--pool).",
        )
