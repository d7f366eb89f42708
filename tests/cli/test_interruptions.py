"""What a run survives: NaN, Ctrl-C, a full disk, another process, a folder that is not its own."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys

import pytest
import torch
from torch import nn

from lanac.ir import OpSpec
from lanac.ops.base import FAMILIES
from lanac.report.console import ConsoleInstruments
from lanac.workspace import Workspace

FLOPS = ("--budget", "flops=0.6x", "--pool", "identity,slim", "--emit", "pytorch")
NAN = ("--budget", "flops=0.6x", "--pool", "identity,slim,nan", "--emit", "pytorch")
STOPPED = (
    "lanac: stopped. Everything finished so far is kept: the same command goes on from there\n"
)


def assert_compiled(outcome, folder):
    assert (outcome.status, outcome.err) == (0, "")
    names = {path.name for path in folder.iterdir()}
    assert names == {"student.py", "student.safetensors", "plan.json", "summary.md"}


class NanFamily:
    """A family from outside, whose op gives NaN: always, or only once it is trained."""

    name = "nan"
    equation = "y = NaN"

    def __init__(self, when_training):
        self._when_training = when_training

    def enumerate(self, view):
        return [OpSpec.of(self.name, k=1)] if view.slot.keeps_shape else []

    def build(self, op, view):
        return Nan(view.input_spec.channels, self._when_training)


class Nan(nn.Module):
    def __init__(self, channels, when_training):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.when_training = when_training

    def forward(self, x):
        y = self.scale * x
        return y if self.training and not self.when_training else y * float("nan")


class TestNan:
    @pytest.mark.parametrize(
        ("when_training", "reason"),
        [(True, "its loss became nan"), (False, "the loss with it is nan")],
        ids=["in distillation", "in scoring"],
    )
    def test_candidate_is_dropped_and_named_and_the_run_goes_on(
        self, lanac, tiny, monkeypatch, when_training, reason
    ):
        FAMILIES.names()  # fills the registry
        monkeypatch.setitem(FAMILIES._items, "nan", NanFamily(when_training))
        outcome = lanac(tiny, *NAN)
        assert_compiled(outcome, tiny.parent / "model.lanac" / "flops-0.6x@cpu")
        dropped = re.findall(r"! dropped: op nan\(k=1\) of slot '([\w.]+)': (.*)", outcome.out)
        assert [slot for slot, _ in dropped] == [
            "blocks.0", "blocks.1", "blocks.3", "blocks.4"
        ]  # fmt: skip
        assert {text for _, text in dropped} == {reason}
        # It is known from the workspace the next time, and still named.
        assert lanac(tiny, *NAN).out.count("! dropped: ") == 4


class TestFolder:
    @pytest.fixture
    def claimed(self, lanac, tiny):
        """An output folder of the tiny teacher."""
        outcome = lanac(tiny, "--budget", "params=0.001x", "--pool", "skip")
        assert outcome.err.startswith("lanac: budget params=0.001x cannot be met. ")
        return tiny.parent / "model.lanac"

    def test_belongs_to_another_teacher(self, lanac, claimed, write_model):
        before = (claimed / "lanac.json").read_bytes()
        path = write_model("def model():\n    torch.manual_seed(3)\n    return TinyNet()")
        outcome = lanac(path, *FLOPS)
        assert (outcome.status, outcome.err) == (
            1,
            "lanac: model.lanac holds students of another teacher (or of this one with other "
            "weights); choose another folder with --out\n",
        )
        assert (claimed / "lanac.json").read_bytes() == before

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"teacher"'])
    def test_note_is_damaged(self, lanac, claimed, tiny, text):
        (claimed / "lanac.json").write_text(text)
        outcome = lanac(tiny, *FLOPS)
        assert (outcome.status, outcome.err) == (
            1, "lanac: model.lanac/lanac.json is damaged; choose another folder with --out\n"
        )  # fmt: skip

    def test_index_is_damaged(self, lanac, claimed, tiny):
        for path in (claimed / "workspace").glob("index.sqlite*"):
            path.write_bytes(b"no database" * 1000)
        outcome = lanac(tiny, *FLOPS)
        assert (outcome.status, outcome.err) == (
            1,
            "lanac: the workspace index model.lanac/workspace/index.sqlite cannot be used: file is "
            "not a database. Choose another workspace, or delete this one: lanac computes it again."
            "\n",
        )

    def test_is_a_file(self, lanac, tiny):
        (tiny.parent / "taken").write_text("")
        outcome = lanac(tiny, *FLOPS, "--out", "taken")
        assert (outcome.status, outcome.err) == (
            1,
            "lanac: cannot write below taken/workspace: Not a directory. Choose a folder that can "
            "be written with --out.\n",
        )

    def test_is_in_use(self, lanac, claimed, tiny):
        with Workspace(claimed / "workspace").lock("run", "is working in model.lanac"):
            outcome = lanac(tiny, *FLOPS)
        assert (outcome.status, outcome.err) == (
            1,
            f"lanac: another lanac (process {os.getpid()}) is working in model.lanac. Wait for it, "
            "or give this run another --out.\n",
        )


class TestInterrupt:
    def test_two_processes_and_ctrl_c(self, lanac, tiny, small_options):
        """While one process distills another is refused; the first is stopped, the second goes on."""
        command = [sys.executable, "-m", "lanac", "model.py", *FLOPS, *small_options]
        first = subprocess.Popen(
            # More to do, so that it is still at it; the second run asks for less.
            [*command, "--distill-samples", "100000"],
            cwd=tiny.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # Tests that run as a background job ignore Ctrl-C, and so would all that they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            while "distilling" not in (line := first.stdout.readline()):
                assert line, first.stderr.read()
            refused = lanac(tiny, *FLOPS)
            first.send_signal(signal.SIGINT)
            _, err = first.communicate(timeout=300)
        finally:
            first.kill()
        assert (refused.status, refused.err) == (
            1,
            f"lanac: another lanac (process {first.pid}) is working in model.lanac. Wait for it, or "
            "give this run another --out.\n",
        )
        assert (first.returncode, err) == (1, STOPPED)
        outcome = lanac(tiny, *FLOPS)
        assert_compiled(outcome, tiny.parent / "model.lanac" / "flops-0.6x@cpu")

    def test_in_every_stage(self, lanac, tiny, monkeypatch):
        """Each run is stopped one stage later; none does a finished stage again."""
        plain = ConsoleInstruments._plain
        stages = ["distilling", "scoring", "evaluating", "finetuning", "measuring accuracy"]
        for stage in stages:

            def stop(self, what, total, done, stage=stage):
                advance = plain(self, what, total, done)

                def step(steps):
                    advance(steps)
                    if what.startswith(stage):
                        raise KeyboardInterrupt

                return step

            monkeypatch.setattr(ConsoleInstruments, "_plain", stop)
            outcome = lanac(tiny, *FLOPS)
            assert (outcome.status, outcome.err) == (1, STOPPED)
            assert f"  {stage}" in outcome.out
        monkeypatch.setattr(ConsoleInstruments, "_plain", plain)
        outcome = lanac(tiny, *FLOPS)
        assert_compiled(outcome, tiny.parent / "model.lanac" / "flops-0.6x@cpu")
        assert "distilling" not in outcome.out
        assert "finetuning" not in outcome.out


FULL = re.compile(
    r"lanac: the disk is full: writing below \S+ failed \(.*\). Everything computed so far is kept; "
    r"free some space and start the same command again to go on.\n"
)


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path):
        """A file system of 8 MB of its own."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("no right to mount a small file system")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_goes_on_once_there_is_space(self, lanac, tiny, small_disk):
        """A disk with a little more space each time: one message each, then the student."""
        ballast = small_disk / "ballast"
        failures = 0
        for free_kb in (0, 16, 64, 200, 400, 700, 1000, 1300, 1600, 2000, 2500, 3000, 4000, 8000):
            ballast.unlink(missing_ok=True)
            status = os.statvfs(small_disk)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, 8192 * 1024 - used - free_kb * 1024))
            outcome = lanac(tiny, *FLOPS, "--out", small_disk / "out")
            if outcome.status == 0:
                break
            failures += 1
            assert FULL.fullmatch(outcome.err), outcome.err
        assert failures > 3
        assert_compiled(outcome, small_disk / "out" / "flops-0.6x@cpu")

    def test_index_is_full(self, lanac, tiny, monkeypatch):
        """SQLite has its own way to say it."""
        opened = Workspace._open_index

        def small(self):
            index = opened(self)
            index.execute("PRAGMA max_page_count = 4")
            return index

        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "_open_index", small)
            outcome = lanac(tiny, *FLOPS)
        assert outcome.status == 1
        assert FULL.fullmatch(outcome.err), outcome.err
        with sqlite3.connect(tiny.parent / "model.lanac" / "workspace" / "index.sqlite") as index:
            assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        index.close()
        assert_compiled(lanac(tiny, *FLOPS), tiny.parent / "model.lanac" / "flops-0.6x@cpu")
