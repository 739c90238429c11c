"""The recipes that come along are read without complaint."""

from pathlib import Path

import pytest

from meshsim.train import Config, read_config
from meshsim.train.plan import stages

FOLDER = Path(__file__).resolve().parents[2] / "datasets"
NAMES = ("config", "train", "anchored")
FILES = sorted(file for name in NAMES for file in FOLDER.glob(f"*/{name}.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_recipe(file):
    config = read_config(file)
    assert Config.from_dict(config.to_dict()) == config
    assert sum(s.share for s in stages(config.train)) == pytest.approx(1.0)
    wanted = [name for b in config.surrogate.branches.values() for name in b.fields]
    assert [*config.fields, *wanted], "a recipe says which fields it is about"


def test_there_are_recipes():
    assert FILES
