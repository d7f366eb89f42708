"""`lanac explain`: why a student is what it is, from its plan.json."""

from __future__ import annotations

import json

import pytest

import lanac as library

REST = ("--emit=pytorch", "--finetune-epochs=0", "--pool=identity,slim")


@pytest.fixture(scope="module")
def record(trained, tmp_path_factory):
    """A student's plan.json, made once."""
    from lanac.frontend.model_file import load_model_file

    file = load_model_file(trained / "model.py")
    out = tmp_path_factory.mktemp("explained")
    settings = library.Settings(
        distill_samples=32, score_samples=32, plans=2, evaluate_images=32, finetune_epochs=0,
        batch_size=16,
    )  # fmt: skip
    result = library.compile(
        file.model, train_data=file.train_data, budget="flops=0.6x", pool="identity,slim", out=out,
        emit="pytorch", settings=settings,
    )  # fmt: skip
    folder = result.student.need("outputs").folder
    return json.loads((folder / "plan.json").read_text())


@pytest.fixture
def folder(record, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(record))
    return tmp_path


def test_reasons_follow_from_scores_and_costs(folder, record):
    found = library.explain(folder)
    assert [reason.slot for reason in found.reasons] == [slot["slot"] for slot in record["slots"]]
    limit = record["limits"]["flops"]
    total = record["predicted"]["costs"]["flops"]
    for reason, slot in zip(found.reasons, record["slots"], strict=True):
        assert reason.chosen.op == slot["op"]
        assert reason.own.op == "teacher"
        room = limit - total + slot["costs"]["flops"]
        fitting = {
            item["op"]: item["score"]
            for item in slot["pool"]
            if item["costs"]["flops"] <= room and item["op"] != slot["op"]
        }
        if reason.runner_up is None:
            assert not fitting
        else:
            assert reason.runner_up.score == min(fitting.values())
            assert reason.runner_up.op in fitting


def test_a_larger_budget_is_worth_something(folder, record):
    (step,) = library.explain(folder).steps
    assert step.resource == "flops"
    assert step.limit == pytest.approx(1.05 * record["limits"]["flops"])
    assert step.price >= 0


def test_one_slot_in_sentences(lanac, folder, record):
    slot = next(s for s in record["slots"] if s["op"] != "teacher")
    outcome = lanac("explain", folder, slot["slot"], small=False)
    assert outcome.status == 0, outcome.err
    first = outcome.out.splitlines()[0]
    assert first.startswith(f"{slot['slot']} takes {slot['op']}: ")
    assert first.endswith(f"for a predicted change of the loss of {slot['score']:+.4f}")


def test_all_slots_in_a_table(lanac, folder, record):
    outcome = lanac("explain", folder, small=False)
    assert outcome.status == 0, outcome.err
    for slot in record["slots"]:
        assert any(slot["slot"] in line and slot["op"] in line for line in outcome.out.splitlines())


def test_what_is_refused(lanac, folder, tmp_path, record):
    def refused(*arguments):
        outcome = lanac("explain", *arguments, small=False)
        assert outcome.status == 1
        return outcome.err

    assert refused(folder, "blocks.9").startswith("lanac: unknown slot 'blocks.9'. Did you mean ")
    missing = "expected the folder of a student, with its plan.json; No such file or directory"
    assert refused(tmp_path / "none") == f"lanac: {tmp_path / 'none'}: {missing}\n"
    (tmp_path / "plan.json").write_text("{")
    assert refused(tmp_path).startswith(f"lanac: {tmp_path / 'plan.json'} is damaged: ")
    (tmp_path / "plan.json").write_text("{}")
    assert refused(tmp_path) == (
        f"lanac: {tmp_path / 'plan.json'} was written by an older lanac; compile again: it is quick now\n"
    )
    broken = {**record, "slots": [{**record["slots"][0], "op": "efn"}]}
    (tmp_path / "plan.json").write_text(json.dumps(broken))
    assert refused(tmp_path).startswith("lanac: plan.json is damaged: ValueError: ")
