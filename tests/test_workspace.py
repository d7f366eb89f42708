from __future__ import annotations

import copy
import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lanac import workspace as module
from lanac.errors import WorkspaceError
from lanac.ir import OpSpec, TensorSpec
from lanac.workspace import Result, Workspace, key_of, separate, write_atomically

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@dataclass(frozen=True)
class Options:
    width: float = 0.5
    name: str = "a"


@dataclass(frozen=True)
class OtherOptions:
    width: float = 0.5
    name: str = "a"


# key_of -----------------------------------------------------------------------------------------


def test_a_key_is_the_same_tomorrow() -> None:
    """Written down: a change here makes every workspace of every user worthless."""
    parts = ("distilled", 3, 0.5, None, True, OpSpec.of("efn", e=3), {"a": [1, 2]})
    assert key_of(*parts) == "2fd919c4380190fa95b27dd93df35f9d4412b0d8"
    assert key_of(torch.arange(3)) == "688ebeb496c31956e8e431d686d03c88f715345b"


@given(PLAIN)
def test_equal_values_have_equal_keys_in_another_process_too(value: Any) -> None:
    assert key_of(value) == key_of(copy.deepcopy(value))
    assert re.fullmatch("[0-9a-f]{40}", key_of(value))


@given(PLAIN, PLAIN)
def test_different_values_have_different_keys(one: Any, other: Any) -> None:
    if repr(one) != repr(other) and one != other:
        assert key_of(one) != key_of(other)


def test_the_order_of_a_mapping_does_not_matter() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), (12,)),
        (("ab", "c"), ("a", "bc")),
        (([1], [2]), ([1, 2],)),
        (([[1], 2],), ([[1, 2]],)),
        ((1,), (1.0,)),
        ((1,), ("1",)),
        ((1,), (True,)),
        ((None,), ("None",)),
        ((Options(),), (OtherOptions(),)),
        ((Options(),), (Options(0.25),)),
        ((OpSpec.of("a", x=1),), (OpSpec.of("a", y=1),)),
        ((torch.zeros(4),), (torch.zeros(2, 2),)),
        ((torch.zeros(4),), (torch.zeros(4, dtype=torch.float64),)),
        ((torch.zeros(4),), (torch.zeros(4, dtype=torch.int32),)),
        ((torch.tensor([0.0, 1.0]),), (torch.tensor([1.0, 0.0]),)),
        (({"a": 1},), ({"b": 1},)),
        (({"a": 1},), ({"a": 2},)),
        ((TensorSpec((2, 3), torch.float32),), (TensorSpec((2, 3), torch.float16),)),
    ],
)
def test_what_means_something_else_has_another_key(
    one: tuple[Any, ...], other: tuple[Any, ...]
) -> None:
    assert key_of(*one) != key_of(*other)


def test_a_tensor_counts_by_its_values_not_by_its_memory() -> None:
    values = torch.arange(12.0).reshape(3, 4)
    assert key_of(values.t()) == key_of(values.t().contiguous())
    assert key_of(values[1]) == key_of(values[1].clone())
    assert key_of(values.clone().requires_grad_()) == key_of(values)


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(True), torch.tensor(1.5), torch.zeros(0, 3), torch.ones(3, dtype=torch.bfloat16)],
    ids=["scalar bool", "scalar", "empty", "bfloat16"],
)
def test_every_kind_of_tensor_has_a_key(tensor: torch.Tensor) -> None:
    assert key_of(tensor) == key_of(tensor.clone())


def test_large_arrays_differ_by_their_middle() -> None:
    one = torch.zeros(5000).numpy()
    other = one.copy()
    other[2500] = 1
    assert key_of(one) != key_of(other)
    assert key_of(one) == key_of(one.copy())


# get and put ------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "some" / "workspace")


def blobs(workspace: Workspace) -> list[Path]:
    return sorted((workspace.folder / "blobs").rglob("*.safetensors"))


def tensors_equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        one[k].equal(other[k]) and one[k].dtype == other[k].dtype for k in one
    )


def test_what_is_put_comes_back(workspace: Workspace) -> None:
    tensors = {"a.weight": torch.randn(3, 2), "n": torch.tensor(7), "b": torch.zeros(0)}
    workspace.put("distilled", "k", Result({"error": 0.1, "epochs": [1, None]}, tensors))
    for opened in (workspace, Workspace(workspace.folder)):
        found = opened.get("distilled", "k")
        assert found is not None
        assert found.value == {"error": 0.1, "epochs": [1, None]}
        assert tensors_equal(found.tensors, tensors)


def test_without_tensors_there_is_no_blob(workspace: Workspace) -> None:
    workspace.put("score", "k", Result(1.5))
    assert workspace.get("score", "k") == Result(1.5)
    assert blobs(workspace) == []


def test_absent_is_none(workspace: Workspace) -> None:
    workspace.put("score", "k", Result(1.5))
    assert workspace.get("score", "other") is None
    assert workspace.get("cost", "k") is None


def test_nan_and_infinity_come_back(workspace: Workspace) -> None:
    workspace.put("score", "k", Result([float("inf"), float("nan")]))
    found = workspace.get("score", "k")
    assert found is not None
    assert str(found.value) == "[inf, nan]"


def test_a_second_put_replaces(workspace: Workspace) -> None:
    workspace.put("score", "k", Result(1))
    workspace.put("score", "k", Result(2))
    assert workspace.get("score", "k") == Result(2)


def test_equal_tensors_are_stored_once(workspace: Workspace) -> None:
    workspace.put("a", "k", Result(1, {"w": torch.ones(3)}))
    workspace.put("b", "k", Result(2, {"w": torch.ones(3)}))
    assert len(blobs(workspace)) == 1


def test_a_replaced_checkpoint_frees_its_blob(workspace: Workspace) -> None:
    for step in range(3):
        tensors = {"w": torch.full((3,), float(step))}
        workspace.replace_checkpoint("checkpoint", "k", Result(step, tensors))
    assert len(blobs(workspace)) == 1
    found = workspace.get("checkpoint", "k")
    assert found is not None
    assert found.value == 2
    assert found.tensors["w"].tolist() == [2, 2, 2]


def test_a_checkpoint_replaced_by_the_same_tensors_keeps_them(workspace: Workspace) -> None:
    for step in range(2):
        workspace.replace_checkpoint("checkpoint", "k", Result(step, {"w": torch.ones(3)}))
    found = workspace.get("checkpoint", "k")
    assert found is not None
    assert found.tensors["w"].tolist() == [1, 1, 1]


def test_discard_forgets_and_frees(workspace: Workspace) -> None:
    workspace.put("checkpoint", "k", Result(1, {"w": torch.ones(3)}))
    workspace.discard("checkpoint", "k")
    assert workspace.get("checkpoint", "k") is None
    assert blobs(workspace) == []
    workspace.discard("checkpoint", "k")  # nothing there: nothing to do


def test_discard_spares_a_blob_that_another_result_uses(workspace: Workspace) -> None:
    workspace.put("checkpoint", "k", Result(1, {"w": torch.ones(3)}))
    workspace.put("student", "k", Result(1, {"w": torch.ones(3)}))
    workspace.discard("checkpoint", "k")
    found = workspace.get("student", "k")
    assert found is not None
    assert found.tensors["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "deleted", "zeros"])
def test_a_damaged_blob_counts_as_absent_and_is_healed_by_the_next_put(
    workspace: Workspace, damage: str
) -> None:
    result = Result(1, {"w": torch.arange(100.0)})
    workspace.put("distilled", "k", result)
    (blob,) = blobs(workspace)
    data = bytearray(blob.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    elif damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    elif damage == "zeros":
        data = bytearray(len(data))
    blob.write_bytes(data)
    if damage == "deleted":
        blob.unlink()
    assert workspace.get("distilled", "k") is None

    workspace.put("distilled", "k", result)
    found = workspace.get("distilled", "k")
    assert found is not None
    assert tensors_equal(found.tensors, result.tensors)


def test_tensors_that_share_memory_are_separated(workspace: Workspace) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"all": base, "same": base, "row": base[0], "column": base[:, 1], "t": base.t()}
    places = [value.untyped_storage().data_ptr() for value in separate(tensors).values()]
    assert len(set(places)) == len(places)
    workspace.put("a", "k", Result(None, tensors))
    found = workspace.get("a", "k")
    assert found is not None
    assert tensors_equal(found.tensors, tensors)


# disk and index ---------------------------------------------------------------------------------


def disk_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_says_what_to_do_and_harms_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.put("a", "k", Result(1, {"w": torch.ones(3)}))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(WorkspaceError) as caught:
            workspace.put("a", "k", Result(2, {"w": torch.zeros(3)}))
    assert str(caught.value) == (
        f"the disk is full: writing below {workspace.folder} failed (No space left on device). "
        "Everything computed so far is kept; free some space and start the same command again to "
        "go on."
    )
    found = workspace.get("a", "k")
    assert found is not None
    assert (found.value, found.tensors["w"].tolist()) == (1, [1, 1, 1])
    assert list(workspace.folder.rglob(".*")) == []  # no temporary file is left


def test_a_full_disk_while_the_index_is_written(workspace: Workspace) -> None:
    class Full:
        def execute(self, *_: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    workspace._index = Full()  # type: ignore[assignment]
    with pytest.raises(WorkspaceError) as caught:
        workspace.put("a", "k", Result(2))
    assert str(caught.value) == (
        f"the disk is full: writing below {workspace.folder} failed (database or disk is full). "
        "Everything computed so far is kept; free some space and start the same command again to "
        "go on."
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "workspace"
    with pytest.raises(WorkspaceError) as caught:
        Workspace(folder)
    assert str(caught.value) == (
        f"cannot write below {folder}: Not a directory. "
        "Choose a folder that can be written with --out."
    )


def test_an_index_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(WorkspaceError) as caught:
        Workspace(tmp_path)
    assert str(caught.value) == (
        f"the workspace index {tmp_path / 'index.sqlite'} cannot be used: "
        "file is not a database. "
        "Choose another workspace, or delete this one: lanac computes it again."
    )


def test_an_index_damaged_in_the_middle(workspace: Workspace) -> None:
    for number in range(200):
        workspace.put("a", f"{number}", Result("x" * 200))
    workspace._index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    workspace._index.close()
    path = workspace.folder / "index.sqlite"
    data = bytearray(path.read_bytes())
    data[4096 * 3 :] = b"\xff" * (len(data) - 4096 * 3)
    path.write_bytes(data)
    expected = (
        f"the workspace index {path} cannot be used: database disk image is malformed. "
        "Choose another workspace, or delete this one: lanac computes it again."
    )
    opened = Workspace(workspace.folder)
    for use in (
        lambda: [opened.get("a", f"{number}") for number in range(200)],
        lambda: [opened.put("a", f"new {number}", Result(1)) for number in range(200)],
    ):
        with pytest.raises(WorkspaceError) as caught:
            use()
        assert str(caught.value) == expected


def test_a_file_is_there_in_full_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    write_atomically(path, b"old")
    for broken in ("fsync", "fdopen"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, disk_full)
            with pytest.raises(OSError, match="No space left"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "plan.json", b"new")
    assert list(tmp_path.iterdir()) == []


# several processes ------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from lanac.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock("run", "is working in out"):
    print("held", flush=True)
    sys.stdin.read()
"""

WRITE = """
import sys
from pathlib import Path
import torch
from lanac.workspace import Result, Workspace
who = sys.argv[2]
sys.stdin.readline()
workspace = Workspace(Path(sys.argv[1]))
for number in range(12):
    workspace.put("own", f"{who} {number}", Result(number, {"w": torch.full((9,), number)}))
    workspace.replace_checkpoint("shared", "k", Result(number, {"w": torch.full((5,), number)}))
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_lock_refuses_until_its_process_ends_in_any_way(workspace: Workspace) -> None:
    with start(HOLD, workspace.folder) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(WorkspaceError) as caught,
            workspace.lock("run", "is working in out"),
        ):
            pass
        assert str(caught.value) == (
            f"another lanac (process {holder.pid}) is working in out. "
            "Wait for it, or give this run another --out."
        )
        with workspace.lock("another", "does something else"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with workspace.lock("run", "is working in out"):
        assert (workspace.folder / "locks" / "run").read_text() == str(os.getpid())


def test_a_lock_is_freed_by_an_error(workspace: Workspace) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), workspace.lock("run", "fails"):
            raise KeyError


def test_processes_that_write_at_the_same_time(tmp_path: Path) -> None:
    """From the start on: all of them make the folder and the index."""
    folder = tmp_path / "workspace"
    writers = [start(WRITE, folder, who) for who in range(2)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    workspace = Workspace(folder)
    for who in range(2):
        for number in range(12):
            found = workspace.get("own", f"{who} {number}")
            assert found is not None
            assert (found.value, found.tensors["w"].tolist()) == (number, [number] * 9)
    shared = workspace.get("shared", "k")
    assert shared is None or shared.value == 11  # None: one freed what the other had just stored


def test_format_is_part_of_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of("a")
    monkeypatch.setattr(module, "_FORMAT", module._FORMAT + 1)
    assert key_of("a") != before


def test_a_lock_is_free_again_though_a_forked_process_lives_on(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.lock("run", "is working here"):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent has closed its end
            os._exit(0)
    with workspace.lock("run", "is working here"):
        pass
    os.close(write)
    os.waitpid(child, 0)
