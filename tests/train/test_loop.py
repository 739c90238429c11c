"""Training: it learns, it resumes bit for bit, and it refuses what does not fit."""

import hashlib
import json
import os
import signal

import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.data.files import Lock
from meshsim.simulator import Simulator
from meshsim.train import Config, checkpoint, evaluate, graphs, train
from meshsim.train import loop as loops


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


class Stop(Exception):
    """Stands for a kill."""


def stopper(step):
    def progress(done, total, note=""):
        if note.startswith(f"step {step}/"):
            raise Stop

    return progress


def test_the_loss_falls_and_the_simulator_beats_persistence(recipe, store, tmp_path):
    raw = recipe(steps=150, batch=2, noise=0.0, lr=5e-3, checkpoint_every=1000)
    raw["model"] |= {"width": 16, "depth": 3, "activation": "silu"}
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    losses = [float(r.split(",")[rows[0].split(",").index("loss")]) for r in rows[1:]]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    report = evaluate(simulator, store, split="valid", steps=10)
    model, still = report["metrics"]["velocity"], report["baselines"]["persistence"]["velocity"]
    assert model["one_step"] < 0.5 * still["one_step"]
    assert model["rollout_all"] < still["rollout_all"]
    assert set(report["cases"]) == {"case_3"} and report["samples"] == 1


@pytest.mark.parametrize(
    ("bundle", "extra"),
    [
        (1, {}),
        (
            2,
            {
                "optimiser": "muon",
                "unroll": [[0.0, 1.0], [0.5, 2.0]],
                "batch": [[0.0, 3.0], [0.6, 1.0]],
            },
        ),
        (1, {"pushforward": 1, "mirror": ["y"], "validate_every": 4, "select": "best"}),
    ],
)
def test_a_stopped_run_ends_with_the_same_weights(recipe, tmp_path, extra, bundle):
    raw = recipe(**extra) | {"simulator": {"bundle": bundle}}
    config = Config.from_dict(raw)
    train(config, tmp_path / "whole")
    for step in (4, 10):
        with pytest.raises(Stop):
            train(config, tmp_path / "parts", progress=stopper(step))
        assert not (tmp_path / "parts" / "model.safetensors").exists()
    train(config, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    logs = [
        [line.split(",")[3] for line in (tmp_path / run / "log.csv").read_text().splitlines()]
        for run in ("whole", "parts")
    ]
    assert [x for x in logs[0] if x] and len(logs[0]) == len(logs[1])


def test_ctrl_c_saves_where_the_run_stands(recipe, tmp_path):
    config = Config.from_dict(recipe())
    train(config, tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)

    def progress(done, total, note=""):
        if note.startswith("step 8/"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=progress)
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.read(tmp_path / "parts" / "checkpoint.safetensors")[1]["step"] == 8
    train(config, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_ctrl_c_inside_an_update_waits_for_its_end(recipe, tmp_path, monkeypatch):
    config = Config.from_dict(recipe())
    train(config, tmp_path / "whole")
    average = loops.average

    def interrupted(*arguments):
        if arguments[-1] == 6:
            os.kill(os.getpid(), signal.SIGINT)
        average(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loops, "average", interrupted)
        train(config, tmp_path / "parts")
    assert checkpoint.read(tmp_path / "parts" / "checkpoint.safetensors")[1]["step"] == 7
    train(config, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_two_processes_do_not_train_into_one_run(recipe, tmp_path):
    config = Config.from_dict(recipe())
    (tmp_path / "run").mkdir()
    with Lock(tmp_path / "run" / ".lock", "this run"), pytest.raises(WorkError, match="another"):
        train(config, tmp_path / "run")


def test_nothing_is_overwritten_while_another_process_trains_there(recipe, tmp_path):
    config = Config.from_dict(recipe(steps=2))
    train(config, tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    with (
        Lock(tmp_path / "run" / ".lock", "this run"),
        pytest.raises(WorkError, match="another"),
    ):
        train(config, tmp_path / "run", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before


def test_a_finished_run_answers_in_full_precision(recipe, tmp_path):
    config = Config.from_dict(recipe(steps=2, precision="bf16", ema=0.0))
    found = [train(config, tmp_path / "run").precision for _ in range(2)]
    assert found == ["fp32", "fp32"]


def test_a_finished_run_is_not_trained_again(recipe, tmp_path, monkeypatch):
    config = Config.from_dict(recipe())
    first = train(config, tmp_path / "run")
    monkeypatch.setattr(graphs, "batch_loss", lambda *a: 1 / 0)
    second = train(config, tmp_path / "run")
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_recipe_on_the_same_run_is_refused(recipe, tmp_path):
    train(Config.from_dict(recipe()), tmp_path / "run")
    other = Config.from_dict(recipe(lr=1e-4))
    with pytest.raises(InputError, match=r"recipe\.train\.lr was 0\.003, now 0\.0001"):
        train(other, tmp_path / "run")
    before = digest(tmp_path / "run")
    train(other, tmp_path / "run", overwrite=True)
    assert digest(tmp_path / "run") != before


def test_a_run_from_before_an_option_existed_is_carried_on(recipe, tmp_path):
    train(Config.from_dict(recipe()), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["asked"]["recipe"]["simulator"]["potential"], record["asked"]["recipe"]["surrogate"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    train(Config.from_dict(recipe()), tmp_path / "run")
    with pytest.raises(InputError, match=r"recipe\.train\.lr was 0\.003, now 0\.0001"):
        train(Config.from_dict(recipe(lr=1e-4)), tmp_path / "run")


def test_other_files_are_never_touched(recipe, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files"):
            train(Config.from_dict(recipe()), tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_seeds_differ_and_repeat(recipe, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(Config.from_dict(recipe(seed=seed, steps=3)), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_training_leaves_the_callers_random_numbers_alone(recipe, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(Config.from_dict(recipe(steps=2)), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_warm_start_begins_where_the_other_run_ended(recipe, tmp_path):
    first = train(Config.from_dict(recipe()), tmp_path / "first")
    config = Config.from_dict(recipe(steps=1, lr=0.0, ema=0.0))
    second = train(config, tmp_path / "second", warm_start=tmp_path / "first")
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    wider = recipe(steps=1)
    wider["model"]["width"] = 16
    with pytest.raises(InputError, match="expected shape"):
        train(Config.from_dict(wider), tmp_path / "third", warm_start=tmp_path / "first")
    with pytest.raises(InputError, match="no trained simulator"):
        train(config, tmp_path / "fourth", warm_start=tmp_path / "absent")


def test_minutes_become_a_recorded_number_of_steps(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loops.Run, "_times", lambda run: [0.1, 0.3])
    raw = recipe(minutes=0.05)
    del raw["train"]["steps"]
    raw["train"]["unroll"] = [[0.0, 1.0], [0.5, 2.0]]
    train(Config.from_dict(raw), tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert plan["counts"] == [15, 5] and plan["costs"] == [0.1, 0.3]
    assert rows[-1].split(",")[0] == "20"


def test_the_time_of_a_step_is_measured_for_every_stage(recipe, tmp_path, monkeypatch):
    seen = {}
    whole = loops.Run._times
    monkeypatch.setattr(loops.Run, "_times", lambda run: seen.setdefault("t", whole(run)))
    raw = recipe(minutes=1e-4, unroll=[[0.0, 1.0], [0.5, 2.0]])
    del raw["train"]["steps"]
    train(Config.from_dict(raw), tmp_path / "run")
    assert len(seen["t"]) == 2 and min(seen["t"]) > 0


def test_the_clock_can_drive_a_run(recipe, tmp_path):
    raw = recipe(minutes=0.01, calibrate=False)
    del raw["train"]["steps"]
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    assert simulator.dt == pytest.approx(0.05)


def test_bf16_trains_close_to_fp32(recipe, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        raw = recipe(steps=30, precision=precision, noise=0.0)
        simulator = train(Config.from_dict(raw), tmp_path / precision)
        assert simulator.dtype == torch.float32 and simulator.precision == "fp32"
        rows = (tmp_path / precision / "log.csv").read_text().splitlines()
        found[precision] = float(rows[-1].split(",")[3])
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.2)


def test_a_run_that_blows_up_says_so(recipe, tmp_path, monkeypatch):
    whole = graphs.batch_loss
    monkeypatch.setattr(graphs, "batch_loss", lambda *a: whole(*a) * float("nan"))
    with pytest.raises(WorkError, match="training blew up"):
        train(Config.from_dict(recipe(steps=60)), tmp_path / "run")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        (
            "model",
            {"depht": 3},
            "unknown argument of the model meshgraphnet: 'depht': did you mean",
        ),
        ("model", {"name": "meshgraph"}, "unknown model 'meshgraph': did you mean 'meshgraphnet'"),
        ("simulator", {"fixed": {"velocity": ["WAL"]}}, "unknown node type .* 'WAL'"),
        ("simulator", {"bundle": 3, "integrator": "rk4"}, "`bundle`: expected 1"),
        ("fields", {"velocity": {"rolle": "state"}}, "'rolle': did you mean 'role'"),
        ("fields", {"speed": {"role": "state"}}, "speed"),
        ("data", {"train": "trian"}, "'trian': did you mean 'train'"),
        ("data", {"branch": "surface"}, "surface"),
    ],
)
def test_recipes_that_do_not_fit(recipe, tmp_path, section, change, message):
    raw = recipe()
    raw[section] = raw.get(section, {}) | change
    with pytest.raises(InputError, match=message) as error:
        train(Config.from_dict(raw), tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:parameter inflow")
def test_loading_a_run_gives_the_simulator_that_training_returned(recipe, store, tmp_path):
    trained = train(Config.from_dict(recipe()), tmp_path / "run")
    loaded = Simulator.load(tmp_path / "run")
    sample = store.sample("case_3")
    a, b = (s.rollout(sample, 3).field("velocity") for s in (trained, loaded))
    assert torch.equal(a, b)
    assert loaded.configuration["train"]["steps"] == 12
    assert loaded.ranges == {"inflow": (1.0, pytest.approx(1.4))}
