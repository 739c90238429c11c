"""Recipes: everything known is kept, everything unknown is named with its neighbour."""

import pytest

from meshsim.check import InputError
from meshsim.train import Config, read_config
from meshsim.train.config import TrainConfig, at

TEXT = """
[data]
store = "flows"
[fields.velocity]
role = "state"
components = 2
noise = 0.02
[model]
name = "meshgraphnet"
width = 32
[simulator]
bundle = 5
fixed = { velocity = ["WALL", "INFLOW"] }
[train]
minutes = 7
unroll = [[0.0, 1], [0.5, 2]]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(TEXT)
    return path


def test_reads_sections_and_widens_integers(file):
    config = read_config(file)
    assert config.data.store == "flows" and config.model.arguments == {"width": 32}
    assert config.train.minutes == 7.0 and isinstance(config.train.minutes, float)
    assert config.train.unroll == [[0.0, 1.0], [0.5, 2.0]]
    assert config.simulator.fixed == {"velocity": ["WALL", "INFLOW"]}
    assert config.fields["velocity"]["noise"] == 0.02


def test_written_out_it_reads_back_the_same(file):
    config = read_config(file)
    assert Config.from_dict(config.to_dict()) == config


def test_overrides_win_and_are_typed(file):
    config = read_config(
        file,
        ["train.minutes=0", "train.steps=100", "model.depth=4", "data.store=other", "train.ema=0"],
    )
    assert (config.train.steps, config.train.minutes, config.train.ema) == (100, 0.0, 0.0)
    assert config.model.arguments == {"width": 32, "depth": 4}
    assert config.data.store == "other"
    assert read_config(file, ["fields.velocity.noise=0"]).fields["velocity"]["noise"] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.setps=5", "unknown key train.setps: did you mean 'steps'"),
        ("trian.steps=5", r"unknown section \[trian\]: did you mean 'train'"),
        ("train.lr=fast", "train.lr: expected float, got 'fast'"),
        ("train.loss=mae", "train.loss: expected one of"),
        ("train.batch=0", "train.batch: expected 1 or more, got 0"),
        ("train.batch=[[0.5, 2]]", "train.batch: expected"),
        ("train.unroll=[[0.0, 1], [1.0, 2]]", "shares below 1"),
        ("train.unroll=[[0.0, 1], [0.5, 0]]", "train.unroll: expected 1 or more"),
        ("train.ema=1.0", "train.ema: expected at least 0 and below 1"),
        ("train.clip=inf", "train.clip: expected a finite number, got inf"),
        ("fields.velocity.scale=nan", r"fields\.velocity\.scale: expected a finite number"),
        ("train.beta2=1.5", r"train.beta2: expected at least 0 and below 1, got 1\.5"),
        ("train.lr_end=-1.0", "train.lr_end: expected 0 or more"),
        ("train.unroll=[[0.0, 1.5]]", r"train.unroll: expected whole numbers, got 1\.5"),
        ("train.steps=3", "either steps or minutes"),
        ('train.mirror=["q"]', "train.mirror: expected axes"),
        ("train.calibrate=1", "train.calibrate: expected bool"),
        ("data.frames=[5, 5]", "data.frames"),
        ("steps=3", "expected section.key=value"),
        ("train.steps", "expected section.key=value"),
        ("data.store.deep=1", "'store' is a value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(file, override, message):
    with pytest.raises(InputError, match=message) as error:
        read_config(file, [override])
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("[train\nsteps = 1")
    with pytest.raises(InputError, match="not valid TOML"):
        read_config(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("[train]\nsteps = 1")
    with pytest.raises(InputError, match=r"data\.store is missing"):
        read_config(tmp_path / "empty.toml")


def test_ramps_hold_until_the_next_share():
    ramp = [[0.0, 1], [0.25, 2], [0.75, 8]]
    assert [at(ramp, s) for s in (0.0, 0.24, 0.25, 0.9)] == [1, 1, 2, 8]
    assert TrainConfig(steps=1, noise=[[0.0, 1.0], [0.5, 0.0]]).noise[1] == [0.5, 0.0]
