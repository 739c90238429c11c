"""Logs: rows after the step a run resumes from are dropped."""

import csv

from meshsim.train.log import Log, Table


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_resuming_drops_later_rows(tmp_path):
    path = tmp_path / "log.csv"
    table = Table(path, 0)
    for step in (10, 20, 30):
        table.row({"step": step, "loss": 1 / step})
    table = Table(path, 20)
    assert [r["step"] for r in rows(path)] == ["10", "20"]
    table.row({"step": 30, "loss": 0.5, "more": 1})
    assert rows(path)[-1] == {"step": "30", "loss": "0.5"}


def test_a_torn_last_line_does_no_harm(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n10,0.5\n2")
    Table(path, 10).row({"step": 20, "loss": 0.25})
    assert [r["loss"] for r in rows(path) if r["step"] != "2"] == ["0.5", "0.25"]


def test_training_and_validation_have_their_own_files(tmp_path):
    log = Log(tmp_path, 0)
    log.train(1, {"loss": 0.5})
    log.validate(1, {"velocity.rollout_all.model": 0.25})
    log.close()
    assert rows(tmp_path / "log.csv") == [{"step": "1", "loss": "0.5"}]
    assert rows(tmp_path / "validation.csv")[0]["velocity.rollout_all.model"] == "0.25"
