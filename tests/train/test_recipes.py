"""The recipes that come along are read without complaint."""

from pathlib import Path

import pytest

from meshsim.train import Config, read_config
from meshsim.train.plan import stages

FOLDER = Path(__file__).resolve().parents[2] / "datasets"
FILES = sorted([*FOLDER.glob("*/config.toml"), *FOLDER.glob("*/train.toml")])


@pytest.mark.parametrize("file", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_recipe(file):
    config = read_config(file)
    assert Config.from_dict(config.to_dict()) == config
    assert sum(s.share for s in stages(config.train)) == pytest.approx(1.0)
    assert config.fields, "a recipe says which fields it is about"


def test_there_are_recipes():
    assert FILES
