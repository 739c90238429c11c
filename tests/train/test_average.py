"""Averaged weights go with the statistics that a model gathered while it was trained."""

import pytest
import torch

import meshsim
from meshsim.train import Config, train
from tests.test_surrogate import case, recipe


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_statistics_of_latents_are_those_of_the_last_step(tmp_path, ema):
    store = meshsim.Store.create(tmp_path / "bodies.zarr")
    for i in range(3):
        store.append(case((1.0, 0.5 + 0.05 * i, 0.4), 1.0 + 0.25 * i))
    store.set_splits({"train": store.names})
    config = recipe(store.path, steps=3, batch=2, ema=ema)
    config["model"] = {"name": "mario", "width": 16, "shape_width": 16, "points": 16, "stage": 0.0}
    trained = train(Config.from_dict(config), tmp_path / "run")
    for model in (trained.model, meshsim.load(tmp_path / "run").model):
        assert int(model.scale.count) == 6  # two bodies in each of three steps
        assert bool(torch.isfinite(model.scale.deviation()).all())
