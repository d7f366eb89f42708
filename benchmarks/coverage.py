"""Every architecture of timm and torchvision through the front end and the emitters.

    python benchmarks/coverage.py                   # all of it, two processes, docs/coverage.md
    python benchmarks/coverage.py --only davit_tiny # one network again, and the table with it

One process per network. What a network gave is kept in a cache file, a line of JSON each, and taken
from there as long as the code is the same; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.zoo.networks import Network, networks  # noqa: E402
from benchmarks.zoo.table import write_table  # noqa: E402

LIBRARIES = ("torch", "timm", "torchvision", "onnx", "onnxscript", "onnxruntime")
RUNNING: set[int] = set()
"""The processes of networks that run now."""
PRELOAD = ["torch", "timm", "torchvision", "benchmarks.zoo.checks"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--only", action="append", default=[], help="networks by name (glob); again"
    )
    parser.add_argument("--group", action="append", default=[], help="groups of networks")
    parser.add_argument("--seconds", type=float, default=400, help="time limit per network")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no network after these")
    parser.add_argument(
        "--exporter", choices=("newer", "older", "auto", "none"), default="auto",
        help="of ONNX; auto: the older, faster one for timm's families",
    )  # fmt: skip
    parser.add_argument("--stale", action="store_true", help="also take rows of older code")
    parser.add_argument("--report", action="store_true", help="only write the table")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "lanac-coverage.jsonl"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "coverage.md")
    arguments = parser.parse_args()
    # Inherited by every process. The packages are imported once, and each process is a fork.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = str(ROOT)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)

    everything = networks()
    code = "" if arguments.stale else fingerprint()
    rows = read_cache(arguments.cache, code)
    wanted = [] if arguments.report else [n for n in everything if is_wanted(n, arguments, rows)]
    begun = time.time()
    end = begun + 60 * arguments.minutes
    with ThreadPoolExecutor(arguments.jobs) as pool:
        started = {pool.submit(run, n, arguments, end): n for n in wanted}
        for count, future in enumerate(as_completed(started), 1):
            network, result = started[future], future.result()
            if result is None:
                continue
            row = {**result, "code": fingerprint()}
            rows[network.key] = row
            with arguments.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            stages = {name: stage.get("error", "ok") for name, stage in row["stages"].items()}
            failed = [f"{name}: {text[:150]}" for name, text in stages.items() if text != "ok"]
            print(
                f"{count}/{len(wanted)} {network.key} {row['wall_seconds']:.0f} s "
                f"{'; '.join(failed) or 'ok'}",
                flush=True,
            )
    if wanted:
        print(f"{(time.time() - begun) / 60:.1f} minutes")
    facts = {name: version(name) for name in LIBRARIES}
    text = write_table([(n, rows.get(n.key)) for n in everything], facts, arguments.jobs)
    arguments.out.write_text(text, encoding="utf-8")


def stop(number: int, _: object) -> None:
    """Ends the processes of the networks as well: each leads a group of its own."""
    for pid in RUNNING:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(128 + number)


def is_wanted(network: Network, arguments: argparse.Namespace, rows: dict[str, Any]) -> bool:
    """Whether a network has to run: named ones always, others where the cache has no row."""
    if arguments.group and network.group not in arguments.group:
        return False
    if arguments.only:
        return any(fnmatchcase(network.name, pattern) for pattern in arguments.only)
    return network.key not in rows


def fingerprint() -> str:
    """A hash of the code under test and of the libraries it meets."""
    made = hashlib.sha256()
    for folder in (ROOT / "lanac", ROOT / "benchmarks" / "zoo"):
        for path in sorted(folder.rglob("*.py")):
            made.update(path.read_bytes())
    made.update(json.dumps([version(name) for name in LIBRARIES]).encode())
    return made.hexdigest()[:16]


def read_cache(path: Path, code: str) -> dict[str, Any]:
    """The last row of each network; only those of this code where `code` is given."""
    rows: dict[str, Any] = {}
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not code or row["code"] == code:
            rows[f"{row['group']}:{row['name']}"] = row
    return rows


def run(network: Network, arguments: argparse.Namespace, end: float) -> dict[str, Any] | None:
    """One network in a process of its own: the last row that it told; None after the end."""
    if time.time() > end:
        return None
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="coverage.") as folder:
        told, noise = Path(folder) / "rows", Path(folder) / "noise"
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=work, args=(network, arguments.exporter, told, noise))
        process.start()
        assert process.pid is not None  # it has been started
        RUNNING.add(process.pid)
        process.join(arguments.seconds)
        RUNNING.discard(process.pid)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)  # what it has started as well
            ended = f"not done within {arguments.seconds:.0f} s"
        else:
            last = noise.read_text(errors="replace").strip()[-200:] if noise.exists() else ""
            ended = f"the process ended with status {process.exitcode}: {last}"
        process.join()
        rows = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    row: dict[str, Any] = {**vars(network), "stages": {"build": {"error": ended}}}
    if rows:
        row = json.loads(rows[-1])
        if "running" in row:
            row["stages"][row.pop("running")]["error"] = ended
    return {**row, "wall_seconds": time.perf_counter() - begun}


def work(network: Network, exporter: str, told: Path, noise: Path) -> None:
    """What the process of one network does: a line in `told` after every stage."""
    os.setsid()
    with noise.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    from benchmarks.zoo.checks import check_network

    def report(row: dict[str, Any]) -> None:
        with told.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    check_network(network, report, exporter)


if __name__ == "__main__":
    main()
