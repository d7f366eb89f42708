"""The script that fits the constants, on data whose truth is known."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lanac.targets.predicted.model import Features, Figures
from lanac.targets.predicted.work import CLASSES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NETWORKS = ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224", "regnetx_002")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fit_latency
    import latency_data
    import latency_fit

    yield latency_data, latency_fit, fit_latency
    for name in ("fit_latency", "latency_data", "latency_fit", "least_squares"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_fit_finds_what_made_the_data(scripts, tmp_path):
    latency_data, latency_fit, _ = scripts
    path = tmp_path / "kernels.jsonl"
    store = latency_data.KernelStore(path)
    assert store.record((f"timm:{name}", 224) for name in NETWORKS) == 0
    assert list(store.failures()) == []
    rows = [
        latency_data.Row(
            device, "pytorch-eager", "made up", "amp-fp16", "nchw", "", f"timm:{name}", name, batch,
            224, 1.0,
        )
        for name in NETWORKS
        for device in ("rtx3090", "rtx4090")
        for batch in (64, 256, 1024)
    ]  # fmt: skip
    truth = {**latency_fit.START, "e.conv1x1": 0.45, "b.pointwise": 0.6, "e.linear": 0.5}
    library = latency_fit.Library(latency_data.KernelStore(path))
    made = library.samples(rows, "eager").predicted(truth)
    rows = [replace(row, latency_ms=float(np.exp(ms))) for row, ms in zip(rows, made, strict=True)]
    samples = library.samples(rows, "eager")
    before = samples.predicted(latency_fit.START) - samples.measured
    after = samples.predicted(latency_fit.fit_constants(samples)) - samples.measured
    assert np.abs(before).max() > 0.1
    assert np.abs(after).max() < 0.03


def test_folds_keep_families_together(scripts):
    latency_data, latency_fit, _ = scripts
    rows = [
        latency_data.Row("d", "r", "f", "fp32", "nchw", "", "m", family, 1, 224, 1.0)
        for family in "aaabbcdde"
    ]
    seen = []
    for train, test in latency_fit.folds(rows, 3):
        assert not {rows[i].family for i in train} & {rows[i].family for i in test}
        seen += list(test)
    assert sorted(seen) == list(range(len(rows)))


def test_figures_of_merit(scripts):
    latency_data, latency_fit, _ = scripts
    rows = [
        latency_data.Row("d", "r", "f", "fp32", "nchw", "", "m", "one", 1, 224, ms)
        for ms in (1.0, 2.0, 4.0)
    ]
    found = latency_fit.accuracy(rows, np.log([1.1, 1.1, 1.1]))
    assert found.mape == pytest.approx(0.1)
    assert (found.tau, found.ratio) == (1.0, pytest.approx(0.0))
    assert latency_fit.kendall_tau(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == -1.0


def test_errors_of_classes_are_found(scripts):
    _, latency_fit, _ = scripts
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(len(latency_fit.CLASSES), 0.3), 4000)
    true = np.full(len(latency_fit.CLASSES), 0.05)
    true[0] = 0.3
    residuals = (shares * true * rng.standard_normal(shares.shape)).sum(axis=1)
    errors = latency_fit.class_errors(shares, residuals, 0.01)
    first, *others = (errors[kind] for kind in latency_fit.CLASSES)
    assert 0.15 < first < 0.35  # the largest residuals are cut
    assert max(others) < 0.7 * first


def test_the_file_in_the_package_is_as_the_script_writes_it(scripts):
    *_, fit_latency = scripts
    text = fit_latency.OUT.read_text("utf-8")
    assert text == fit_latency.text_of(json.loads(text))
    assert max(map(len, text.splitlines())) < 300


def test_members_scatter_where_the_data_do_not_decide(scripts):
    """Constants of kernels that no network has stay as uncertain as their guess."""
    latency_data, latency_fit, _ = scripts
    rows = [
        latency_data.Row(
            "rtx3090", "pytorch-eager", "", "fp16", "nchw", "", "m", family, 64, 224, 1.0
        )
        for family in "abcdefgh"
    ]

    class OneKernel:
        """Networks of one large elementwise kernel, measured as predicted."""

        def samples(self, rows, rule):
            kernel = [CLASSES.index("pointwise"), 0, 1 << 30, 1 << 30, 0, 0, 0, 1, 1, 0, 0]
            features = Features.of_table(np.array([kernel], dtype=float), np.ones(1))
            figures = Figures(900.0, 70.0, 17.0, 6.0, 82.0, True)
            samples = [latency_fit.Sample(row, features, figures, 1.0) for row in rows]
            made = latency_fit.Samples(samples)
            made.measured = made.predicted(latency_fit.START)
            return made

    start = dict(latency_fit.START)
    found = latency_fit.fit_members(OneKernel(), rows, "eager", start, 0.5, (), 6, count=8)
    assert all(len(values) == 8 for values in found.values())
    assert np.std(np.log(found["b.pointwise"])) < 0.3 * np.std(np.log(found["e.linear"]))
    assert found["launch_us"] == pytest.approx([start["launch_us"]] * 8)
