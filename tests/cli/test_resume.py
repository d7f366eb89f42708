"""`kill -9` at any moment: the next run goes on, and ends with the very same student."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FLOPS = ("--budget", "flops=0.6x", "--pool", "identity,slim", "--emit", "pytorch")
STUDENT = "flops-0.6x@cpu"
KILLED = signal.SIGKILL.value


class Runs:
    """Runs of the command in processes of their own, from one server."""

    def __init__(self, model, options, logs):
        self._arguments = [str(model), *FLOPS, *options]
        self._logs = logs
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_server.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._server.stdout.readline() == "ready\n"

    def run(self, out, *, kill_in="", kill_at=None, kill_after_s=None):
        """Its wait status and what it printed; killed at an event of a stage or after a time."""
        self._count += 1
        log = self._logs / f"{self._count}.log"
        arguments = [*self._arguments, "--out", str(out)]
        request = {"arguments": arguments, "log": str(log), "kill_in": kill_in, "kill_at": kill_at}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        status = int(self._server.stdout.readline())
        return status, log.read_text()

    def close(self):
        self._server.stdin.close()
        self._server.wait(timeout=30)


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    options = (
        "--distill-samples 128 --score-samples 96 --plans 4 --evaluate-images 384 "
        "--finalist-steps 2 --finetune-epochs 1 --batch-size 32"
    )
    server = Runs(trained / "model.py", options.split(), tmp_path_factory.mktemp("logs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    """The output folder of a run that nothing disturbed, and its seconds."""
    out = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    status, printed = runs.run(out)
    assert status == 0, printed
    return out, time.monotonic() - began


@pytest.fixture(scope="module")
def going_on(tmp_path_factory):
    """One output folder for a row of tests."""
    return tmp_path_factory.mktemp("going_on")


def plan(out):
    return json.loads((out / STUDENT / "plan.json").read_text())


def assert_same_student(out, expected):
    assert plan(out)["slots"] == plan(expected)["slots"]
    assert plan(out)["finetuning"] == plan(expected)["finetuning"]
    assert plan(out)["metric"] == plan(expected)["metric"]
    ours, theirs = (
        (folder / STUDENT / "student.safetensors").read_bytes() for folder in (out, expected)
    )
    assert ours == theirs


def test_an_undisturbed_run_is_reproducible(runs, undisturbed, tmp_path):
    status, printed = runs.run(tmp_path)
    assert status == 0, printed
    assert_same_student(tmp_path, undisturbed[0])


def test_ten_kills_at_random_moments(runs, undisturbed, tmp_path):
    """The moments are seeded; where in the run they fall is up to the machine."""
    expected, seconds = undisturbed
    moments = random.Random(20)
    for _ in range(10):
        status, printed = runs.run(tmp_path, kill_after_s=moments.uniform(0, seconds / 4))
        assert status in (0, KILLED), printed
    status, printed = runs.run(tmp_path)
    assert status == 0, printed
    assert_same_student(tmp_path, expected)


@pytest.mark.parametrize(
    ("stage", "events"),
    [
        ("distilling", 20),
        ("scoring", 20),
        ("evaluating", 8),
        ("finetuning", 30),
        ("measuring accuracy", 2),
    ],
)
def test_two_kills_in_a_stage(runs, undisturbed, going_on, stage, events):
    """Seeded events, the second counted from where the first run died: no luck with the clock."""
    moments = random.Random(stage)
    for _ in range(2):
        status, printed = runs.run(going_on, kill_in=stage, kill_at=moments.randint(1, events))
        assert status == KILLED, printed
        assert f"  {stage}" in printed
        assert "Traceback" not in printed


def test_ten_kills_in_five_stages_end_with_the_same_student(runs, undisturbed, going_on):
    """What the ten kills of the test above left behind."""
    status, printed = runs.run(going_on)
    assert status == 0, printed
    assert not re.search("distilling|finetuning", printed)
    assert_same_student(going_on, undisturbed[0])
