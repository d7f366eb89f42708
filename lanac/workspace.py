"""The workspace: every result on disk, addressed by what it was computed from.

A result has a kind ("distilled", "score", ...), a key (a hash of everything it depends on), a
JSON value and, where it has weights, a safetensors blob. Blobs are named by the hash of their
bytes and appear by atomic rename; the index is SQLite. What does not pass its checksum counts as
absent. Nothing that is loaded executes code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lanac.errors import WorkspaceError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, blob TEXT,
    PRIMARY KEY (kind, key)
)
"""
_FORMAT = 1
"""Raised whenever a stored result would mean something else; part of every key."""


def key_of(*parts: Any) -> str:
    """A hash of plain values, dataclasses, tensors, arrays and nested containers of them."""
    digest = hashlib.sha256(f"format {_FORMAT};".encode())
    _feed(digest, parts)
    return digest.hexdigest()[:40]


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        raw = value.detach().cpu().contiguous().reshape(-1)
        digest.update(raw.view(torch.uint8).numpy() if raw.numel() else b"")
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"array {value.dtype} {value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        digest.update(b"{")
        for name in sorted(value, key=str):
            _feed(digest, str(name))
            _feed(digest, value[name])
        digest.update(b"}")
    elif isinstance(value, (list, tuple)):
        digest.update(b"(")
        for item in value:
            _feed(digest, item)
        digest.update(b")")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        digest.update(type(value).__name__.encode())
        for entry in dataclasses.fields(value):
            _feed(digest, (entry.name, getattr(value, entry.name)))
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode())


@dataclass(frozen=True)
class Result:
    """One stored result: a JSON value and, perhaps, tensors."""

    value: Any = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Workspace:
    """Results on disk under `folder`; safe for several processes at once.

    Args:
        folder: created where it does not exist.

    Raises:
        WorkspaceError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(folder):
            (folder / "blobs").mkdir(parents=True, exist_ok=True)
            (folder / "locks").mkdir(exist_ok=True)
            self._index = self._open_index()

    def _open_index(self) -> sqlite3.Connection:
        path = self.folder / "index.sqlite"
        try:
            index = sqlite3.connect(path, timeout=60, isolation_level=None)
            index.execute("PRAGMA journal_mode=WAL")
            index.execute("PRAGMA synchronous=NORMAL")
            index.execute(_SCHEMA)
        except sqlite3.OperationalError:
            raise  # the disk, not the index: a full one above all
        except sqlite3.DatabaseError as error:
            raise WorkspaceError(_index_message(self.folder, str(error))) from error
        return index

    def get(self, kind: str, key: str) -> Result | None:
        """The stored result, or None where there is none or its blob is damaged."""
        with disk_errors(self.folder):
            row = self._index.execute(
                "SELECT value, blob FROM results WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
        if row is None:
            return None
        value, blob = row
        if blob is None:
            return Result(json.loads(value))
        try:
            data = self._blob(blob).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != blob:
            return None
        return Result(json.loads(value), safetensors.torch.load(data))

    def put(self, kind: str, key: str, result: Result) -> None:
        """Stores a result; an older one of that kind and key is replaced."""
        with disk_errors(self.folder):
            blob = self._write_blob(result.tensors) if result.tensors else None
            self._index.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)",
                (kind, key, json.dumps(result.value), blob),
            )

    def replace_checkpoint(self, kind: str, key: str, result: Result) -> None:
        """Stores a result and frees the blob of the one that it replaces."""
        with disk_errors(self.folder):
            row = self._index.execute(
                "SELECT blob FROM results WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
        self.put(kind, key, result)
        if row is not None and row[0] is not None:
            with disk_errors(self.folder):
                self._free_blob(row[0])

    def discard(self, kind: str, key: str) -> None:
        """Forgets a result (a checkpoint that has become a final result) and frees its blob."""
        with disk_errors(self.folder):
            row = self._index.execute(
                "DELETE FROM results WHERE kind = ? AND key = ? RETURNING blob", (kind, key)
            ).fetchone()
            if row is not None and row[0] is not None:
                self._free_blob(row[0])

    def _write_blob(self, tensors: Mapping[str, Tensor]) -> str:
        data = safetensors.torch.save(separate(tensors))
        name = hashlib.sha256(data).hexdigest()
        path = self._blob(name)
        if not _holds(path, name):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
        return name

    def _free_blob(self, name: str) -> None:
        used = self._index.execute("SELECT 1 FROM results WHERE blob = ?", (name,)).fetchone()
        if used is None:
            self._blob(name).unlink(missing_ok=True)

    def _blob(self, name: str) -> Path:
        return self.folder / "blobs" / name[:2] / f"{name}.safetensors"

    @contextlib.contextmanager
    def lock(self, name: str, what: str, *, wait: bool = False) -> Iterator[None]:
        """Holds an advisory lock, freed by the system when the process ends in any way.

        Args:
            name: of the lock.
            what: what its holder does, for the message.
            wait: waits until it is free.

        Raises:
            WorkspaceError: another process holds it and `wait` is not set.
        """
        with disk_errors(self.folder):
            opened = (self.folder / "locks" / name).open("a+")
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                file.seek(0)
                raise WorkspaceError(
                    f"another lanac (process {file.read().strip() or 'unknown'}) {what}. "
                    "Wait for it, or give this run another --out."
                ) from error
            with disk_errors(self.folder):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
            try:
                yield
            finally:
                # Closing is not enough: a process that was forked meanwhile has the file too.
                fcntl.flock(file, fcntl.LOCK_UN)


def _holds(path: Path, name: str) -> bool:
    """Whether the blob is there undamaged; a damaged one is written again."""
    try:
        return checksum(path) == name
    except FileNotFoundError:
        return False


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two in the same memory: what safetensors takes."""
    taken: set[int] = set()
    result = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        result[name] = value.clone() if place in taken else value
        taken.add(place)
    return result


def checksum(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that it is there in full or not at all, even after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a disk can do wrong into a WorkspaceError that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        full = "full" in str(error) or _is_full(folder)
        raise WorkspaceError(_disk_message(folder, str(error), full)) from error
    except sqlite3.DatabaseError as error:
        raise WorkspaceError(_index_message(folder, str(error))) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WorkspaceError(_disk_message(folder, error.strerror or str(error), full)) from error


def _is_full(folder: Path) -> bool:
    """Whether less than a page is left: SQLite calls that "disk I/O error" in some places."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free < 32 * 1024  # what its shared memory takes


def _index_message(folder: Path, reason: str) -> str:
    return (
        f"the workspace index {folder / 'index.sqlite'} cannot be used: {reason}. "
        "Choose another workspace, or delete this one: lanac computes it again."
    )


def _disk_message(folder: Path, reason: str, full: bool) -> str:
    if full:
        return (
            f"the disk is full: writing below {folder} failed ({reason}). Everything computed so "
            "far is kept; free some space and start the same command again to go on."
        )
    return f"cannot write below {folder}: {reason}. Choose a folder that can be written with --out."
