"""Models side by side on the same ten ShapeNet cars, three CPU minutes each: one table.

    python tests/verify/car_models.py [--folds 0 4] [--minutes 3] [--models NAME ...] [-o DIR]

Seven models and the mean of the nearest training nodes. Every model gets the inputs of
`datasets/shapenet_car/anchored.toml`, one thread, one network, and as many steps as it makes in the
time; the clock counts the process's own seconds, so that other programs do not matter. The fields
are trained as in that recipe, but CORAL by AdamW instead of Muon, the graph models as in
`config.toml` there. Anchored and MeshGraphNet have the sizes of these recipes; the others are 64
wide and otherwise as they come. The time to prepare inputs and to evaluate is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import shapenet_car as cars
import torch

import meshsim
from meshsim.cli import main as shell
from meshsim.inputs import FLOW
from meshsim.train import loop

WIDTH = 64
OPTIMISER = {"coral": "adamw"}  # with Muon its inner loop blows up
FIELDS = ("anchored", "mario", "coral", "enf2enf", "point_mlp")
GRAPHS = ("meshgraphnet", "graph_transformer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--models", nargs="+", default=[*FIELDS, *GRAPHS])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/car_models"))
    given = parser.parse_args()
    if not cars.CARS.is_dir():
        print(f"skipped: {cars.CARS} is not there (set MESHSIM_REAL_DATA)")
        return 0
    torch.set_num_threads(1)
    path = given.output / "cars.zarr"
    recipe = cars.RECIPE / "preprocess.toml"
    if shell(["preprocess", str(cars.CARS), "-o", str(path), "--config", str(recipe)]):
        return 1
    store = meshsim.Store(path)
    table: dict[str, dict[str, float]] = {"nearest": {}}
    for fold in given.folds:
        test = store.names[2 * fold : 2 * fold + 2]
        table["nearest"][str(fold)] = nearest(store, test)
        for name in given.models:
            row = judged(name, store, test, given.output / f"{name}{fold}", given.minutes)
            table.setdefault(name, {})[str(fold)] = row
            print(json.dumps({"model": name, "fold": fold, "relative_l2": row}), flush=True)
    for row in table.values():
        row["mean"] = float(np.mean(list(row.values())))
    print(json.dumps(table, indent=2))
    return 0


def judged(name: str, store: meshsim.Store, test: list[str], run: Path, minutes: float) -> float:
    """Train one model without the cars `test`, and judge it on them."""
    fields = cars.RECIPE / "anchored.toml"
    raw = tomllib.loads((fields if name in FIELDS else cars.RECIPE / "config.toml").read_text())
    if name != raw["model"]["name"]:
        raw["model"] = {"name": name, "width": WIDTH}
    raw["model"].pop("members", None)
    if name in GRAPHS:
        raw["simulator"]["features"] += FLOW
        raw["simulator"]["potential"] = tomllib.loads(fields.read_text())["surrogate"]["potential"]
    train = [n for n in store.names if n not in test]
    raw["data"] = {"store": str(store.path), "train": train, "valid": test}
    raw["train"]["optimiser"] = OPTIMISER.get(name, raw["train"]["optimiser"])
    raw["train"] |= {"threads": 1, "minutes": minutes, "calibrate": False}
    del raw["train"]["steps"]
    with patch.object(loop.time, "perf_counter", time.process_time):
        meshsim.train.train(meshsim.train.Config.from_dict(raw), run)
    trained = meshsim.load(run)
    if isinstance(trained, meshsim.Surrogate):
        report = meshsim.train.evaluate_surrogate(trained, store, split=test, draws=cars.DRAWS)
    else:
        report = meshsim.train.evaluate(trained, store, split=test)
    return float(report["metrics"]["pressure"]["relative_l2"])


def nearest(store: meshsim.Store, test: list[str]) -> float:
    """The mean of the 20 nearest training nodes in position and normal."""
    known = [store.sample(n).mesh for n in store.names if n not in test]
    held = [store.sample(n).mesh for n in test]
    return float(np.mean([cars.nearest(known, car, ["position", "normal"], 20) for car in held]))


if __name__ == "__main__":
    sys.exit(main())
