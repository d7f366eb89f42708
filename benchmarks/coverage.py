"""Every architecture of timm and torchvision through the front end and the emitters.

    python benchmarks/coverage.py                   # all of it, two processes, docs/coverage.md
    python benchmarks/coverage.py --only davit_tiny # one network again, and the table with it

One process per network. What a network gave is kept in a cache file, a line of JSON each, and taken
from there as long as the code is the same; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.zoo.networks import Network, networks  # noqa: E402
from benchmarks.zoo.table import write_table  # noqa: E402

LIBRARIES = ("torch", "timm", "torchvision", "onnx", "onnxscript", "onnxruntime")
PREFIX = "row: "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--only", action="append", default=[], help="networks by name (glob); again")
    parser.add_argument("--group", action="append", default=[], help="groups of networks")
    parser.add_argument("--seconds", type=float, default=240, help="time limit per network")
    parser.add_argument("--no-onnx", action="store_true", help="without the slowest stage")
    parser.add_argument("--stale", action="store_true", help="also take rows of older code")
    parser.add_argument("--report", action="store_true", help="only write the table")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "lanac-coverage.jsonl"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "coverage.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(Network(**json.loads(arguments.worker)), not arguments.no_onnx)

    everything = networks()
    code = "" if arguments.stale else fingerprint()
    rows = read_cache(arguments.cache, code)
    wanted = [] if arguments.report else [n for n in everything if is_wanted(n, arguments, rows)]
    begun = time.time()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        started = [(n, pool.submit(run, n, arguments)) for n in wanted]
        for count, (network, future) in enumerate(started, 1):
            row = {**future.result(), "code": fingerprint()}
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


def run(network: Network, arguments: argparse.Namespace) -> dict[str, Any]:
    """One network in a process of its own: the last row that it told."""
    command = [sys.executable, __file__, "--worker", json.dumps(vars(network))]
    command += ["--no-onnx"] if arguments.no_onnx else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # so that what it starts can be stopped with it
    ) as process:
        try:
            out, err = process.communicate(timeout=arguments.seconds)
            ended = f"the process ended with status {process.returncode}: {err.strip()[-200:]}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            ended = f"not done within {arguments.seconds:.0f} s"
    told = [line.removeprefix(PREFIX) for line in out.splitlines() if line.startswith(PREFIX)]
    row: dict[str, Any] = {**vars(network), "stages": {"build": {"error": ended}}}
    if told:
        row = json.loads(told[-1])
        if "running" in row:
            row["stages"][row.pop("running")]["error"] = ended
    return {**row, "wall_seconds": time.perf_counter() - begun}


def work(network: Network, with_onnx: bool) -> None:
    """What the process of one network does."""
    from benchmarks.zoo.checks import check_network

    check_network(network, lambda row: print(PREFIX + json.dumps(row), flush=True), with_onnx)


if __name__ == "__main__":
    main()
