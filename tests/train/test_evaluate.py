"""Evaluation: a perfect model scores zero, baselines are what they say, frames fit steps."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.data import Store
from meshsim.metrics import rmse
from meshsim.sample import Sample
from meshsim.series import Series
from meshsim.train import Config, evaluate, train
from meshsim.train.evaluate import evaluate_sample, frames_a_step


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    raw = {
        "data": {"store": str(store.path)},
        "model": {"width": 8, "depth": 2, "hidden_layers": 1},
        "simulator": {"bundle": 2},
        "train": {"steps": 5, "threads": 1, "warmup": 1},
    }
    return train(Config.from_dict(raw), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """The validation sample's inflow is outside the range of the few training samples."""


def test_a_rollout_of_the_model_itself_scores_zero(trained, store):
    sample = store.sample("case_0")
    own = trained.rollout(sample, 12)
    errors = evaluate_sample(trained, Sample(own, sample.parameters, "own"))["velocity"]
    assert errors["model"]["rollout_all"] < 1e-6
    assert errors["persistence"]["rollout_all"] > 1e-3


def test_baselines_against_the_frames(trained, store):
    sample = store.sample("case_1")
    truth = sample.branch.field("velocity")
    errors = evaluate_sample(trained, sample, start=4, steps=20, n=10)["velocity"]
    after, last = truth[5:25], truth[4]
    assert errors["persistence"]["rollout_all"] == pytest.approx(
        rmse(after, last.expand_as(after)), rel=1e-5
    )
    assert errors["persistence"]["one_step"] == pytest.approx(rmse(after, truth[4:24]), rel=1e-5)
    mean = after.mean(0).expand_as(after)
    assert errors["time_mean"]["rollout_all"] == pytest.approx(rmse(after, mean), rel=1e-5)
    assert set(errors["model"]) == {"one_step", "rollout_10", "rollout_all", "relative_l2"}


def test_one_step_errors_start_from_the_truth_every_time(trained, store):
    sample = store.sample("case_1")
    errors = evaluate_sample(trained, sample, steps=6)["velocity"]["model"]
    truth = sample.branch
    squares = []
    for t in range(6):
        step = trained.rollout(Sample(truth, sample.parameters), 1, start=float(truth.times[t]))
        true = truth.frame(t + 1).point_fields["velocity"]
        squares.append(rmse(true, step.frame(1).point_fields["velocity"]) ** 2)
    assert errors["one_step"] == pytest.approx((sum(squares) / 6) ** 0.5, rel=1e-4)


def test_history_gives_the_last_period(trained, store):
    errors = evaluate_sample(trained, store.sample("case_3"), start=26, steps=3)["velocity"]
    assert "last_period" in errors
    assert "last_period" not in evaluate_sample(trained, store.sample("case_3"))["velocity"]


def test_frames_that_do_not_fit_the_step_are_refused(trained, store):
    series = store.sample("case_0").branch
    assert frames_a_step(trained, series, "a") == 1
    times = (series.times / 2).tolist()
    half = Series(series.mesh, times, {"velocity": series.field("velocity")})
    assert frames_a_step(trained, half, "a") == 2
    odd = Series(series.mesh, (series.times * 0.7).tolist(), {"velocity": series.field("velocity")})
    with pytest.raises(InputError, match="do not fit the simulator's step"):
        frames_a_step(trained, odd, "a")
    errors = evaluate_sample(trained, Sample(half, {"inflow": 1.0}, "half"), start=3)["velocity"]
    assert errors["model"]["rollout_all"] > 0


def test_reports_name_split_samples_and_cases(trained, store):
    seen = []
    report = evaluate(trained, store, split="train", steps=3, progress=lambda *a: seen.append(a))
    assert report["samples"] == 3 and sorted(report["cases"]) == ["case_0", "case_1", "case_2"]
    assert set(report["baselines"]) == {"persistence", "time_mean"}
    values = [c["velocity"]["model"]["rollout_all"] for c in report["cases"].values()]
    mean = report["metrics"]["velocity"]["rollout_all"]
    assert mean == pytest.approx(sum(values) / 3)
    assert seen[-1][0] == seen[-1][1] == 3
    with pytest.raises(InputError, match="'trian': did you mean"):
        evaluate(trained, store, split="trian")
    with pytest.raises(InputError, match="no frame after frame 29"):
        evaluate(trained, store, split="train", start=29)


def test_the_branch_that_was_trained_on_is_judged(store, tmp_path):
    path, case = tmp_path / "store", store.sample("case_0")
    both = Store.create(path, store.schema)
    still = case.branch.frame(0)
    for name in ("a", "b"):
        branches = {"fluid": case.branch, "body": still}
        both.append(Sample(branches, case.parameters, name=name), {})
    raw = {
        "data": {"store": str(path), "train": ["a"], "valid": ["b"], "branch": "fluid"},
        "model": {"width": 8, "depth": 1, "hidden_layers": 1},
        "train": {"steps": 2, "threads": 1, "validate_steps": 3},
    }
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    errors = evaluate(simulator, both, split=["b"], steps=3)["metrics"]["velocity"]
    assert errors["rollout_all"] > 0
    with pytest.raises(InputError, match=r"'fluid': .*known: mesh"):
        evaluate(simulator, store, split=["case_0"])


def test_an_empty_split_is_said(trained, tmp_path):
    empty = Store.create(tmp_path / "empty")
    empty.set_splits({"test": []})
    with pytest.raises(InputError, match="split 'test' is empty"):
        evaluate(trained, empty)
    assert torch.is_grad_enabled()
