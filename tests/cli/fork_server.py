"""Runs `lanac` in forked processes, which pay for the imports only once; made to be killed.

Reads lines of JSON from stdin: {"arguments": [...], "log": FILE, "kill_in": STAGE, "kill_at": N}.
Prints that it is ready, then the pid of each child, and when that has ended its wait status. A
child writes a checkpoint after every step. It kills itself at the N-th event of the stage with a
progress bar of that name, where one is given; events are steps of progress, and results about to
be stored or just stored.
"""

import json
import os
import signal
import sys

import torch

import lanac.backends.onnx
import lanac.backends.pytorch
import lanac.compiler
import lanac.solver.scip  # noqa: F401 - imported once, for all children
from lanac.backends import isolation
from lanac.cli.main import main
from lanac.passes import EmitStudent
from lanac.report.console import ConsoleInstruments
from lanac.targets import Timing
from lanac.training.checkpoint import CheckpointClock
from lanac.workspace import Workspace


class Events:
    """Counts what happens in a stage, and kills the process at one of them."""

    def __init__(self, kill_in, kill_at):
        self._kill_in, self._kill_at = kill_in, kill_at
        self._stage, self._count = "", 0

    def start(self, stage):
        self._stage, self._count = stage, 0

    def __call__(self):
        self._count += 1
        if self._stage.startswith(self._kill_in) and self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def patch(events):
    plain, put = ConsoleInstruments._plain, Workspace.put

    def counted(self, what, total, done):
        events.start(what)
        advance = plain(self, what, total, done)

        def step(steps):
            advance(steps)
            events()

        return step

    def put_counted(self, *arguments):
        events()
        put(self, *arguments)
        events()

    times = Timing(1.0, 1.0, 1.0, 1), Timing(2.0, 2.0, 2.0, 1)
    EmitStudent._time = lambda *_: times  # longer than all the rest of a run, and stores nothing
    isolation.new_bench = isolation.Local
    ConsoleInstruments._plain = counted
    Workspace.put = put_counted
    CheckpointClock.is_due = lambda self: True


def run(request):
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    patch(Events(request["kill_in"], request["kill_at"]))
    main(request["arguments"])


print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(json.loads(line))  # ends in sys.exit
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
