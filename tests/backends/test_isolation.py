"""Networks that are opened and timed in a process of their own, and what becomes of crashes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lanac.backends.isolation import Local, Worker, WorkerDied
from lanac.errors import BackendError
from lanac.ir import TensorSpec
from lanac.targets import parse_target

TARGET = parse_target("cpu:pytorch")
SPECS = (TensorSpec((2, 3), torch.float32), TensorSpec((4,), torch.int64))


class Fake:
    """A runtime whose files say what it does; the other process makes one by its class."""

    name = "fake"
    reads = "fake"

    def open(self, files, inputs, target):
        what = files[0].read_text()
        assert [(tuple(value.shape), value.dtype) for value in inputs] == [
            (spec.shape, spec.dtype) for spec in SPECS
        ]
        print("a runtime that prints", flush=True)
        if what == "refuse":
            raise BackendError("no such operator")
        if what == "throw":
            raise ValueError("bad value\nand more")
        if what == "abort when opened":
            os.abort()
        calls = 0

        def run():
            nonlocal calls
            calls += 1
            if what == "abort" and calls > 2:
                os.abort()
            if what == "hang" and calls > 2:
                time.sleep(600)
            if what == "map memory" and calls > 2:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                torch.empty(10_000_000).fill_(0)
                mapped = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
                assert calls < 30 or mapped < 10, f"{mapped} pages mapped"

        return run


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker(Fake(), TARGET)
    yield found
    found.quit()


@pytest.fixture
def doing(tmp_path):
    """Files of a network that does something."""

    def make(what: str) -> tuple[Path]:
        path = tmp_path / what
        path.write_text(what)
        return (path,)

    return make


def test_refusals_and_crashes(worker, doing):
    """One process for all: starting one takes seconds."""
    fine = worker.open("fine", doing("work"), SPECS)
    assert fine(3) >= 0
    with pytest.raises(BackendError, match=r"^no such operator$"):
        worker.open("refused", doing("refuse"), SPECS)
    with pytest.raises(BackendError, match=r"^ValueError: bad value$"):
        worker.open("thrown", doing("throw"), SPECS)
    assert fine(1) >= 0  # what was refused has harmed nobody
    worker.close(["fine"])

    crashing = worker.open("crashing", doing("abort"), SPECS)
    with pytest.raises(WorkerDied) as caught:
        crashing(5)
    assert str(caught.value).startswith("the process that ran it was ended by signal SIGABRT")

    # The next one starts another process.
    with pytest.raises(WorkerDied) as caught:
        worker.open("crashing", doing("abort when opened"), SPECS)
    assert "SIGABRT" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that can keep freed memory")
def test_freed_memory_stays_with_the_process(worker, doing):
    assert worker.open("large", doing("map memory"), SPECS)(40) > 0


def test_a_hang_is_stopped(doing):
    worker = Worker(Fake(), TARGET, patience=0.5)  # half a minute instead of one
    try:
        hanging = worker.open("hanging", doing("hang"), SPECS)
        worker._patience = 0.02
        with pytest.raises(WorkerDied, match=r"^it did not end within 1 s and was stopped$"):
            hanging(5)
    finally:
        worker.quit()


def test_a_worker_that_was_killed(worker, doing):
    sample = worker.open("fine", doing("work"), SPECS)
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied) as caught:
        sample(1)
    assert str(caught.value) == (
        "the process that ran it was ended by signal SIGKILL (a runtime that prints); the system may "
        "have run out of memory: close other programs, or take a smaller batch (:bN in the target)"
    )
    worker.close(["fine"])  # nothing is open; nothing happens


def test_in_this_process(doing):
    local = Local(Fake(), TARGET)
    assert local.open("fine", doing("work"), SPECS)(2) >= 0
    with pytest.raises(BackendError):
        local.open("refused", doing("refuse"), SPECS)
    local.close(["fine"])
    local.quit()
