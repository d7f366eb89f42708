"""The command in this process on a tiny trained network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import nn

from lanac.backends.onnx import export_model, save_model
from lanac.cli.main import main
from lanac.passes import EmitStudent
from lanac.targets import Timing
from lanac.workspace import checksum

TINY = Path(__file__).parents[1] / "tiny_teacher" / "model.py"
SMALL = (
    "--distill-samples=128",
    "--score-samples=64",
    "--plans=4",
    "--evaluate-images=128",
    "--finalist-steps=2",
    "--finetune-epochs=1",
    "--batch-size=32",
)
"""Options that make a run a matter of seconds."""


@dataclass(frozen=True)
class Outcome:
    """What the command did.

    Attributes:
        status: its exit status.
        out, err: what it printed.
    """

    status: int
    out: str
    err: str


Lanac = Callable[..., Outcome]
WriteModel = Callable[[str], Path]


@pytest.fixture
def tiny(trained: Path, tmp_path: Path) -> Path:
    """The tiny model file in a folder of its own."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model.py"


@pytest.fixture
def write_model(tiny: Path) -> WriteModel:
    """Writes the tiny model file with something put after it, which replaces what it defines."""

    def write(addition: str) -> Path:
        tiny.write_text(f"{TINY.read_text()}\n\n{addition}\n")
        return tiny

    return write


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher and student as compiling leaves them, as far as later commands read them."""
    folder = tmp_path_factory.mktemp("finished")
    torch.manual_seed(0)
    student = folder / "0.5x@cpu"
    student.mkdir()
    for width, place, name in ((32, folder, "teacher.onnx"), (4, student, "student.onnx")):
        network = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3)).eval()
        save_model(export_model(network, (torch.zeros(2, 8),)), place, name)
    record = {
        "schema": 2,
        "target": "cpu:onnxruntime:fp32:b1:t1",
        "files": {"onnx": ["student.onnx"]},
        "checksums": {
            name: checksum(student / name) for name in ("student.onnx", "../teacher.onnx")
        },
        "teacher_file": "../teacher.onnx",
    }
    (student / "plan.json").write_text(json.dumps(record))
    # It is never executed.
    (student / "student.py").write_text("raise SystemExit('student.py was executed')")
    return folder


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """The folder of a student, in a folder with its teacher; may be changed."""
    shutil.copytree(_finished, tmp_path / "model.lanac")
    return Path("model.lanac/0.5x@cpu")


@pytest.fixture
def small_options() -> tuple[str, ...]:
    return SMALL


@pytest.fixture(scope="session")
def untime() -> Callable[[pytest.MonkeyPatch], None]:
    """Keeps emitted students from being timed, which takes longer than all the rest of a run."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        times = Timing(1.0, 1.0, 1.0, 1), Timing(2.0, 2.0, 2.0, 1)
        monkeypatch.setattr(EmitStudent, "_time", lambda *_: times)

    return patch


@pytest.fixture
def lanac(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    untime: Callable[[pytest.MonkeyPatch], None],
) -> Lanac:
    """Runs the command in this process, with small settings, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    untime(monkeypatch)

    def leave(status: int) -> NoReturn:
        raise SystemExit(status)

    # The command leaves by os._exit after an error: threads may hang.
    monkeypatch.setattr(os, "_exit", leave)

    def run(*arguments: str | Path, small: bool = True) -> Outcome:
        capsys.readouterr()
        words = [*map(str, arguments), *(SMALL if small else ())]
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        captured = capsys.readouterr()
        code = exit_info.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
