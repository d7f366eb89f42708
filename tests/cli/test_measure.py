"""`lanac measure` and `--costs`: a table is written, used, and refused where it does not fit."""

from __future__ import annotations

import json

from lanac.targets import read_costs

POOL = "--pool=skip"


def test_measured_and_used(lanac, tiny, tmp_path):
    """By hand: a table, a student from it as if its machine were elsewhere, and a wrong target."""
    outcome = lanac("measure", tiny, POOL, "-o", "tiny.costs", small=False)
    assert outcome.status == 0, outcome.err
    table = read_costs(tmp_path / "tiny.costs")
    lines = outcome.out.splitlines()
    assert lines[-3] == (
        f"tiny.costs: {len(table.entries)} of {len(table.entries)} ops in 7 slots measured on "
        f"{table.device} ({table.target}, {table.runtime})"
    )
    assert lines[-1] == f"use it anywhere with --target {table.target} --costs tiny.costs"
    assert (tmp_path / "tiny.costs.workspace").is_dir()

    from dataclasses import replace

    from lanac.targets import format_costs

    other = replace(table, device="Other CPU", device_fingerprint="0")
    (tmp_path / "other.costs").write_text(format_costs(other))
    outcome = lanac(
        tiny, POOL, "--costs=other.costs", "--budget=0.8x", "--out=out", "--emit=pytorch"
    )
    assert outcome.status == 0, outcome.err
    assert "latency (sum of parts," in outcome.out
    assert "by sums of imported latency; nothing was measured as a whole" in outcome.out
    plan = json.loads((tmp_path / "out" / "0.8x@cpu" / "plan.json").read_text())
    assert plan["cost_sources"]["latency_ms"] == "imported"
    assert plan["measured_elsewhere"] == "Other CPU"
    assert plan["latency"]["how"] == "imported"
    assert plan["predicted"]["costs"]["latency_ms"] <= 0.8 * table.latency_ms

    outcome = lanac(tiny, POOL, "--costs=tiny.costs", "--target=cpu:b8", "--out=out")
    assert outcome.status == 1
    assert outcome.err == (
        "lanac: the cost table tiny.costs was measured for another target: batch 1 there, 8 here. Use "
        "it with --target cpu:onnxruntime:fp32:b1:t1, or measure for cpu:onnxruntime:fp32:b8:t1\n"
    )


def test_a_table_that_is_not_there(lanac, tiny):
    outcome = lanac(tiny, "--costs=none.costs")
    assert (outcome.status, outcome.err) == (
        1,
        "lanac: cannot read the cost table none.costs: No such file or directory; expected a file "
        "that lanac measure wrote\n",
    )


def test_what_measure_needs(lanac, tiny):
    assert lanac("measure", tiny, small=False).err == (
        "lanac: Missing option '--out' / '-o'. (lanac measure --help lists the options)\n"
    )
    assert lanac("measure", tiny, "-o", "none/tiny.costs", small=False).err == (
        "lanac: -o 'none/tiny.costs': expected the name of a file in a folder that exists\n"
    )
    assert lanac("measure", tiny, "-o", "t.costs", "--target=a100:pytorch", small=False).err == (
        "lanac: a100:pytorch:fp16:b128:t1 cannot be measured here: this machine has no CUDA device "
        "that torch can use. Run lanac measure on that machine\n"
    )
