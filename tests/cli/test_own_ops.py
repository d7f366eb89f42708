"""Bring your own op: by a file or as an object; what a good one gets, and what a bad one gets."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lanac import Family, OpSpec, Settings, begin, compile, run_passes
from lanac.errors import FamilyError
from lanac.frontend.model_file import load_model_file
from lanac.ops.own import EXAMPLE
from lanac.ops.pool import parse_pool
from lanac.passes import CheckOps, EnumeratePool

FLOPS = ("--budget", "flops=0.6x", "--emit", "pytorch")
STUDENT = "flops-0.6x@cpu"
HEAD = """import torch
from torch import nn
from lanac import Family, OpSpec, SlotView

"""
BLUR = """
class Blur(Family):
    name = "blur"

    def enumerate(self, view):
        return [OpSpec.of(self.name, k=3)] if view.slot.keeps_shape else []

    def build(self, op, view):
        channels = view.input_spec.channels
        return nn.Conv2d(channels, channels, int(op["k"]), padding=1, groups=channels)
"""


def rows(folder, kind):
    """How many results of a kind a workspace holds."""
    index = folder / "workspace" / "index.sqlite"
    with contextlib.closing(sqlite3.connect(index)) as connection:
        return connection.execute(
            "SELECT COUNT(*) FROM results WHERE kind = ?", (kind,)
        ).fetchone()[0]


@pytest.fixture
def write(tmp_path):
    """Writes an op file into the test's folder."""

    def to(text, name="my_ops.py"):
        path = tmp_path / name
        path.write_text(HEAD + text)
        return path

    return to


@pytest.fixture(autouse=True)
def tidy_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("lanac_user_ops", "blur_parts")):
            del sys.modules[name]


def plan_of(tiny, out="model.lanac"):
    return json.loads((tiny.parent / out / STUDENT / "plan.json").read_text())


class TestGoodFile:
    def test_joins_the_pool_and_is_kept_until_it_is_edited(self, lanac, tiny, write):
        write(BLUR)
        run = (tiny, *FLOPS, "--pool", "identity", "--ops", "my_ops.py")
        outcome = lanac(*run)
        assert (outcome.status, outcome.err) == (0, "")
        assert "distilling 4 ops" in outcome.out  # of the four blocks that keep their shape
        plan = plan_of(tiny)
        assert plan["own_ops"] == {"blur": "my_ops.py, class Blur"}
        assert plan["dropped"] == []
        text = (tiny.parent / "model.lanac" / STUDENT / "summary.md").read_text()
        assert "Op families of your own were tried: `blur` (my_ops.py, class Blur)." in text

        assert "distilling" not in lanac(*run).out
        assert plan_of(tiny) == plan

        write(BLUR.replace("groups=channels", "groups=8"))
        assert "distilling 4 ops" in lanac(*run).out

    def test_what_the_pool_names_counts(self, lanac, tiny, write):
        """Another value of an option, and nothing of the grid."""
        write(BLUR.replace("padding=1", "padding=int(op['k']) // 2"))
        outcome = lanac(tiny, *FLOPS, "--pool", "identity,blur(k=5)", "--ops", "my_ops.py")
        assert (outcome.status, outcome.err) == (0, "")
        with contextlib.closing(
            sqlite3.connect(tiny.parent / "model.lanac" / "workspace" / "index.sqlite")
        ) as index:
            (kept,) = index.execute("SELECT COUNT(*) FROM results WHERE kind = 'distilled'")
        assert kept == (4,)

    def test_an_op_without_parameters_is_scored_and_not_distilled(self, lanac, tiny, write):
        write(
            "class Pool(Family):\n"
            "    name = 'pool'\n"
            "    def enumerate(self, view):\n"
            "        return [OpSpec.of(self.name, k=3)] if view.slot.keeps_shape else []\n"
            "    def build(self, op, view): return nn.AvgPool2d(3, 1, 1)\n"
        )
        outcome = lanac(tiny, *FLOPS, "--pool", "pool", "--ops", "my_ops.py")
        assert (outcome.status, outcome.err) == (0, "")
        assert "distilling" not in outcome.out
        assert "pool(k=3)" in {slot["op"] for slot in plan_of(tiny)["slots"]}

    def test_works_for_some_slots_only(self, lanac, tiny, write):
        write(
            BLUR.replace(
                "        channels = ",
                "        if view.slot.name == 'blocks.3':\n"
                "            raise ValueError('not here')\n"
                "        channels = ",
            )
        )
        outcome = lanac(tiny, *FLOPS, "--pool", "identity", "--ops", "my_ops.py")
        assert (outcome.status, outcome.err) == (0, "")
        reason = "op blur(k=3) cannot be built for slot 'blocks.3': ValueError: not here"
        assert f"! dropped: {reason}\n" in outcome.out
        assert "dropped 1 ops that failed: see summary.md" in outcome.out
        assert plan_of(tiny)["dropped"] == [
            {"slot": "blocks.3", "op": "blur(k=3)", "reason": reason}
        ]
        text = (tiny.parent / "model.lanac" / STUDENT / "summary.md").read_text()
        assert f"Dropped, because they failed:\n\n- {reason}\n" in text

    def test_several_files_objects_and_neighbours(self, lanac, tiny, write):
        write("def channels(view): return view.input_spec.channels", "blur_parts.py")
        write(
            "import blur_parts\n"
            "class Sized(Family):\n"
            "    def __init__(self, k): self.k, self.name = k, f'sized{k}'\n"
            "    def enumerate(self, view):\n"
            "        return [OpSpec(self.name)] if view.slot.keeps_shape else []\n"
            "    def build(self, op, view):\n"
            "        c = blur_parts.channels(view)\n"
            "        return nn.Conv2d(c, c, self.k, padding=self.k // 2, groups=c)\n"
            "SMALL, LARGE = Sized(3), Sized(5)\n"
        )
        write(BLUR, "more_ops.py")
        outcome = lanac(
            tiny, *FLOPS, "--pool", "identity", "--ops", "my_ops.py", "--ops", "more_ops.py",
            "--ops", "./my_ops.py",
        )  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        assert plan_of(tiny)["own_ops"] == {
            "sized3": "my_ops.py, class Sized",
            "sized5": "my_ops.py, class Sized",
            "blur": "more_ops.py, class Blur",
        }
        assert rows(tiny.parent / "model.lanac", "distilled") == 12

    def test_fits_no_slot(self, lanac, tiny, write):
        write(BLUR.replace("if view.slot.keeps_shape", "if view.input_spec.rank == 3"))
        outcome = lanac(
            tiny, "--budget", "params=0.001x", "--pool", "identity", "--ops", "my_ops.py"
        )
        assert (
            "! my_ops.py, class Blur: blur fits none of the 7 slots: enumerate() gives no op for "
            "any of them\n"
        ) in outcome.out


# What is wrong in the file itself ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"my_ops.py defines no op family; {EXAMPLE}"),
        ("import nowhere_to_be_found",
         "my_ops.py, line 5: importing the file failed: ModuleNotFoundError: No module named "
         "'nowhere_to_be_found'"),
        ("1 +", "my_ops.py, line 5: invalid syntax"),
        (BLUR.replace('name = "blur"', ""),
         "my_ops.py, class Blur has no name; expected one, such as name = 'blur', for --pool"),
        (BLUR.replace('"blur"', '"my blur"'),
         "my_ops.py, class Blur: the name is 'my blur'; expected letters, digits and _, such as "
         "'blur'"),
        (BLUR.replace('"blur"', "3"),
         "my_ops.py, class Blur: the name is 3; expected letters, digits and _, such as 'blur'"),
        (BLUR.replace('"blur"', '"efn"'),
         "my_ops.py, class Blur: the name 'efn' is taken by lanac's own family; choose another "
         "name"),
        (BLUR.replace('"blur"', '"default"'),
         "my_ops.py, class Blur: the name 'default' is taken by lanac's pool 'default'; choose "
         "another name"),
        (BLUR + BLUR.replace("class Blur", "class Second"),
         "my_ops.py, class Second: the name 'blur' is taken by my_ops.py, class Blur; choose "
         "another name"),
        (BLUR.replace("def build", "def make"),
         f"my_ops.py, class Blur has no build(op, view); {EXAMPLE}"),
        (BLUR.replace("def enumerate", "def list"),
         f"my_ops.py, class Blur has no enumerate(view); {EXAMPLE}"),
        (f"{BLUR}\n    def __init__(self, size, more=1): self.size = size",
         "my_ops.py, class Blur: its constructor needs size; give an object instead of the class, "
         "or define one in the file: FAMILY = Blur(...)"),
        (f"{BLUR}\n    def __init__(self): raise OSError('no')",
         "my_ops.py, class Blur: its constructor fails: OSError: no"),
    ],
    ids=[
        "empty", "fails", "no Python", "no name", "a name of two words", "a number for a name",
        "a name of lanac's", "a name of a pool", "a name twice", "no build", "no enumerate",
        "a constructor with arguments", "a constructor that fails",
    ],
)  # fmt: skip
def test_a_bad_file(lanac, tiny, write, text, message):
    write(text)
    outcome = lanac(tiny, *FLOPS, "--ops", "my_ops.py")
    assert (outcome.status, outcome.err) == (1, f"lanac: {message}\n")
    assert not (tiny.parent / "model.lanac").exists()


def test_no_file(lanac, tiny, write):
    outcome = lanac(tiny, *FLOPS, "--ops", "nothing.py")
    assert outcome.err == f"lanac: op file 'nothing.py' does not exist; {EXAMPLE}\n"
    outcome = lanac(tiny, *FLOPS, "--ops", write("", "ops.txt").name)
    assert outcome.err == f"lanac: op file 'ops.txt' is not a .py file; {EXAMPLE}\n"


def test_an_unknown_name_in_the_pool_names_the_users_too(lanac, tiny, write):
    write(BLUR)
    outcome = lanac(tiny, *FLOPS, "--ops", "my_ops.py", "--pool", "blurr")
    assert outcome.err.startswith(
        "lanac: unknown pool or op family 'blurr'. Did you mean 'blur'? Known: blur, "
    )
    outcome = lanac(tiny, *FLOPS, "--ops", "my_ops.py", "--pool", "blur(kk=3)")
    assert outcome.err == (
        "lanac: op 'blur(kk=3)': unknown option of blur 'kk'. Did you mean 'k'? Known: k.\n"
    )


# What is wrong with an op: before any training or measuring --------------------------------------

MODULE = """
class Part(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x):
        {forward}


class Blur(Family):
    name = "blur"

    def enumerate(self, view):
        return [{listed}] if view.slot.keeps_shape else []

    def build(self, op, view):
        {build}
"""
NOWHERE = ". It works in none of the 4 slots that enumerate() gives it for"
OTHERS = (
    "op blur in slot 'blocks.0' gives another output for a sample in eval mode when the other "
    "samples of the batch change; expected each sample by itself: batch norms keep their running "
    f"statistics, and means leave out dimension 0{NOWHERE}"
)
LISTED = "family 'blur', slot 'blocks.0': enumerate() "
NO_TEXT = (
    "which is not the same when read back from text; expected a number, or a word without blanks, "
    "commas and brackets"
)


def ops_file(forward="return self.conv(x)", build="", listed="OpSpec(self.name)"):
    build = build or "return Part(view.input_spec.channels)"
    return MODULE.format(forward=forward, build=build, listed=listed)


BAD = {
    "shape": (
        ops_file(build="return nn.Conv2d(view.input_spec.channels, 5, 1)"),
        "op blur in slot 'blocks.0' gives shape (2, 5, 12, 12), expected (2, 16, 12, 12)" + NOWHERE,
    ),
    "dtype": (
        ops_file("return self.conv(x).double()"),
        "op blur in slot 'blocks.0' gives torch.float64, expected torch.float32" + NOWHERE,
    ),
    "a mean over the batch": (ops_file("return x - x.mean(0, keepdim=True)"), OTHERS),
    "behind a zero": (ops_file("return x + self.scale * x.mean(0, keepdim=True)"), OTHERS),
    "statistics of the batch": (
        ops_file(
            build="return nn.BatchNorm2d(view.input_spec.channels, track_running_stats=False)"
        ),
        OTHERS,
    ),
    "no module": (
        ops_file(build="return torch.relu"),
        "op blur cannot be built for slot 'blocks.0': build() gives a builtin_function_or_method, "
        f"expected a torch.nn.Module{NOWHERE}",
    ),
    "nothing": (
        ops_file(build="pass"),
        "op blur cannot be built for slot 'blocks.0': build() gives None, expected a "
        f"torch.nn.Module{NOWHERE}",
    ),
    "a tuple": (
        ops_file("return x, x"),
        "op blur in slot 'blocks.0' gives a tuple, expected one tensor, f32[N,16,12,12]" + NOWHERE,
    ),
    "build fails": (
        ops_file(build="raise KeyError('k')"),
        "op blur cannot be built for slot 'blocks.0': KeyError: 'k'" + NOWHERE,
    ),
    "forward fails": (
        ops_file("raise KeyError('k')"),
        "op blur fails on the input of slot 'blocks.0', f32[N,16,12,12]: KeyError: 'k'" + NOWHERE,
    ),
    "training fails": (
        ops_file("assert not self.training, 'no'; return self.conv(x)"),
        "op blur in slot 'blocks.0' fails in training mode: AssertionError: no" + NOWHERE,
    ),
    "changes its input": (
        ops_file("return x.mul_(2)"),
        "op blur in slot 'blocks.0' changes its input in place, which other ops read too; let it "
        f"make a new tensor{NOWHERE}",
    ),
    "draws numbers": (
        ops_file("return x + torch.rand_like(x)"),
        "op blur in slot 'blocks.0' gives another output for the same input in eval mode; expected "
        "the same: let it draw random numbers in training mode alone (if self.training)" + NOWHERE,
    ),
    "cannot be traced": (
        ops_file("return self.conv(x) if x.sum() > 0 else x"),
        "op blur in slot 'blocks.0' cannot be traced by torch.fx: TraceError: symbolically traced "
        "variables cannot be used as inputs to control flow. Its forward() may not decide by the "
        f"values or the sizes of its input; build() knows the sizes{NOWHERE}",
    ),
    "other weights when calibrated": (
        ops_file(
            build="return nn.Conv2d(16, 16, 1 if view.calibration is None else 3, padding='same')",
            listed="OpSpec(self.name)] if view.slot.name == 'blocks.0' else [",
        ),
        "op blur in slot 'blocks.0' has other weights with calibration data than without "
        "('weight': (16, 16, 3, 3), (16, 16, 1, 1)); expected the same names and shapes: only "
        "values may follow from view.calibration",
    ),
    "the teacher's own weights": (
        ops_file(build="return nn.Sequential(view.teacher, nn.ReLU())"),
        "op blur in slot 'blocks.0' shares the weight '0.blocks.0.conv1.weight' with the teacher, "
        "which training would change; let build() copy it, as by copy.deepcopy(view.teacher)"
        + NOWHERE,
    ),
    "a changed teacher": (
        ops_file(build="next(view.teacher.parameters()).data.zero_(); return nn.Conv2d(16, 16, 1)"),
        "op blur in slot 'blocks.0' changes the teacher's weight 'blocks.0.conv1.weight'; let "
        "build() change a copy, as copy.deepcopy(view.teacher)",
    ),
    "enumerate fails": (
        ops_file(listed="view.slot.size"),
        LISTED + "fails: AttributeError: 'Slot' object has no attribute 'size'",
    ),
    "text for an op": (
        ops_file(listed="'blur'"),
        f"{LISTED}gives 'blur'; expected OpSpec.of('blur', option=value, ...)",
    ),
    "an op of another family": (
        ops_file(listed="OpSpec('efn')"),
        f"{LISTED}gives efn, of another family; expected OpSpec.of('blur', option=value, ...)",
    ),
    "a tuple for an option": (
        ops_file(listed="OpSpec.of('blur', k=(3, 5))"),
        f"{LISTED}gives an op with k=(3, 5), {NO_TEXT}",
    ),
    "a truth for an option": (
        ops_file(listed="OpSpec.of('blur', norm=True)"),
        f"{LISTED}gives an op with norm=True, {NO_TEXT}",
    ),
    "digits for a word": (
        ops_file(listed="OpSpec.of('blur', k='3')"),
        f"{LISTED}gives an op with k='3', {NO_TEXT}",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_op_in_a_file(lanac, tiny, write, name):
    text, message = BAD[name]
    write(text)
    outcome = lanac(tiny, *FLOPS, "--ops", "my_ops.py", "--pool", "skip")
    assert (outcome.status, outcome.err) == (1, f"lanac: my_ops.py, class Blur: {message}\n")
    kept = {kind: rows(tiny.parent / "model.lanac", kind) for kind in ("counted", "distilled")}
    assert kept == {"counted": 0, "distilled": 0}


# As a library ------------------------------------------------------------------------------------

SETTINGS = Settings(
    distill_samples=64, score_samples=64, plans=2, evaluate_images=64, finetune_epochs=0,
    batch_size=32,
)  # fmt: skip


class Widen(Family):
    """Depthwise, with a kernel that its object knows."""

    name = "widen"

    def __init__(self, k=3, channels=0):
        self.k, self.channels = k, channels

    def enumerate(self, view):
        return [OpSpec(self.name)] if view.slot.keeps_shape else []

    def build(self, op, view):
        channels = view.input_spec.channels
        outputs = self.channels or channels
        return nn.Conv2d(channels, outputs, self.k, padding=self.k // 2, groups=channels)


@pytest.fixture
def begun(trained, tmp_path):
    """Begins with families of one's own and checks them."""

    def make(*ops, pool="skip"):
        file = load_model_file(trained / "model.py")
        start = begin(
            file.model, train_data=file.train_data, budget="flops=0.6x", out=tmp_path, ops=ops
        )
        members = parse_pool(pool, start.families)
        return run_passes(start, [EnumeratePool(members), CheckOps()])

    return make


class TestLibrary:
    def test_two_runs_with_families_of_one_name(self, trained, tmp_path, untime, monkeypatch):
        """Neither the pool nor the weights of one run reach the other, in one workspace."""
        untime(monkeypatch)
        file = load_model_file(trained / "model.py")
        kernels = []
        for own in (Widen(3), Widen(5), None):
            result = compile(
                file.model, train_data=file.train_data, budget="flops=0.6x", out=tmp_path,
                pool="identity,widen" if own else "identity", ops=[own] if own else [],
                settings=SETTINGS, emit="pytorch",
            )  # fmt: skip
            weights = result.student.weights
            keys = {trained.key for ops in weights.values() for trained in ops.values()}
            tensors = [result.student.workspace.get("distilled", key).tensors for key in keys]
            kernels.append(sorted(found["weight"].shape[-1] for found in tensors))
        assert kernels == [[3] * 4, [5] * 4, []]
        assert rows(tmp_path, "distilled") == 8

    def test_an_object_or_a_class(self, begun):
        for own in (Widen, Widen()):
            pool = begun(own).pool
            assert OpSpec("widen") in pool["blocks.0"]
            assert OpSpec("widen") not in pool["blocks.2"]

    def test_what_does_not_fit_is_refused_at_once(self, begun):
        with pytest.raises(FamilyError) as caught:
            begun(Widen(channels=48))
        file = __file__
        assert str(caught.value).endswith(
            "class Widen: op widen in slot 'blocks.0' gives shape (2, 48, 12, 12), expected "
            f"(2, 16, 12, 12){NOWHERE}"
        )
        assert str(caught.value).split(", class ")[0] in file

    @pytest.mark.parametrize(
        ("ops", "message"),
        [
            ("my_ops.py",
             "ops is 'my_ops.py'; expected a list of op families (a file with families: --ops "
             "FILE)"),
            (3, "ops is 3; expected a list of op families (a file with families: --ops FILE)"),
            ([3],
             "ops: 3 is no op family; expected an object or a class with a name, enumerate(view) "
             "and build(op, view)"),
        ],
    )  # fmt: skip
    def test_what_is_no_family(self, tmp_path, ops, message):
        data = torch.zeros(40, 3), torch.zeros(40, dtype=torch.long)
        with pytest.raises(FamilyError) as caught:
            compile(nn.Linear(3, 2), train_data=data, out=tmp_path / "out", ops=ops)
        assert str(caught.value) == message
        assert not (tmp_path / "out").exists()

    def test_named_or_not(self, begun):
        pools = [begun(Widen(), pool=pool).pool for pool in ("skip", "skip,widen")]
        assert pools[0] == pools[1]
        assert len(list(itertools.chain(*pools[0].values()))) == 7 + 4 + 4


# The documentation -------------------------------------------------------------------------------


def test_the_example_of_the_documentation(lanac, tiny):
    """The file and the command of docs/own-ops.md, on a tiny network."""
    text = (Path(__file__).parents[2] / "docs" / "own-ops.md").read_text()
    file, command = (
        re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1] for language in ("python", "sh")
    )
    (tiny.parent / "my_ops.py").write_text(file)
    words = shlex.split(command)[1:]
    assert words[-2:] == ["--budget", "0.5x"]
    outcome = lanac(*words[:-2], *FLOPS, "--pool", "identity")
    assert (outcome.status, outcome.err) == (0, "")
    # Ghosts in the six slots that convolutions can fill, affine in four of them; one ghost of the
    # stem is not cheaper.
    assert "26 of 27 ops are worth trying" in outcome.out
    assert "distilling 15 ops" in outcome.out
    plan = plan_of(tiny)
    assert set(plan["own_ops"]) == {"ghost", "affine"}
    assert plan["dropped"] == []
