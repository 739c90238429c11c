"""Five folds of ten ShapeNet cars: relative L2 of the surface pressure beside its baselines.

    python tests/verify/shapenet_car.py [--recipe FILE [FILE ...]] [--folds 0 1 2 3 4] [-o DIR]
                                        [key=value ...]

From the CGNS files as they lie: `meshsim preprocess`, `train` on eight cars with each recipe (of
several the runs are combined into a committee), `evaluate` on two,
`predict` on one of them into .vtu, `render.compare`. Baselines: the training mean, and the mean
of the nearest training nodes in position (8) and in position and normal (20). A fold that is
finished is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

import meshsim
from meshsim import render
from meshsim.cli import main as shell
from meshsim.graph.features import point_features
from meshsim.metrics import relative_l2

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "datasets" / "shapenet_car"
DATA = Path(os.environ.get("MESHSIM_REAL_DATA", ROOT.parent / "shared" / "data"))
DRAWS = 4  # of anchors, over which a prediction is averaged
CARS = DATA / "PLAID-lib__plaid" / "tests" / "containers" / "dataset_cgns"


def nearest(train: list[meshsim.Mesh], test: meshsim.Mesh, names: list[str], k: int) -> float:
    """Relative L2 of the mean pressure of the k nearest training nodes in these features."""
    features = torch.cat([point_features(mesh, names) for mesh in train])
    pressure = torch.cat([mesh.point_fields["pressure"] for mesh in train])
    _, found = cKDTree(features.numpy()).query(point_features(test, names).numpy(), k=k)
    guess = pressure[torch.from_numpy(np.atleast_2d(found))].mean(1)
    return relative_l2(test.point_fields["pressure"].double(), guess.double())


def fold(
    k: int, store: meshsim.Store, out: Path, recipes: list[str], options: list[str]
) -> dict[str, float]:
    """Train without cars 2k and 2k + 1, and judge on them."""
    names = store.names
    test = names[2 * k : 2 * k + 2]
    train = [name for name in names if name not in test]
    runs = [out / f"{Path(recipe).stem}{k}" for recipe in recipes]
    chosen = [f"data.store='{store.path}'", f"data.train={train}", f"data.valid={test}"]
    for recipe, run in zip(recipes, runs, strict=True):
        if not (run / "simulator.json").exists():
            code = shell(["train", str(RECIPE / recipe), "-o", str(run), *chosen, *options])
            if code:
                sys.exit(code)
    run = runs[0]
    if len(runs) > 1:
        run = out / f"committee{k}"
        if not run.exists() and shell(["combine", *map(str, runs), "-o", str(run)]):
            sys.exit("combine failed")
    trained = meshsim.load(run)
    if isinstance(trained, meshsim.Committee):
        report = meshsim.train.evaluate_committee(trained, store, split=test, draws=DRAWS)
    elif isinstance(trained, meshsim.Surrogate):
        report = meshsim.train.evaluate_surrogate(trained, store, split=test, draws=DRAWS)
    else:
        report = meshsim.train.evaluate(trained, store, split=test)
    cars = {name: store.sample(name).mesh for name in names}
    known = [cars[name] for name in train]
    mean = torch.cat([car.point_fields["pressure"] for car in known]).mean()
    truth = {name: cars[name].point_fields["pressure"].double() for name in test}

    def over_test(error) -> float:  # type: ignore[no-untyped-def]
        return float(np.mean([error(name) for name in test]))

    source = next(CARS.glob(f"data/train/{test[0]}/meshes/*.cgns"))
    target = run / f"{test[0]}.vtu"
    if shell(["predict", str(run), str(source), "-o", str(target)]):
        sys.exit("predict failed")
    first = cars[test[0]]
    back = meshsim.read(target)
    assert torch.equal(back.points.double(), first.points.double()), "the point order changed"
    render.compare(first, back, "pressure", run / f"{test[0]}.png", unit="Pa", up="y")
    return {
        "model": report["metrics"]["pressure"]["relative_l2"],
        "cars": [case["pressure"]["model"]["relative_l2"] for case in report["cases"].values()],
        "minutes": sum(map(seconds, runs)) / 60,
        "constant": over_test(lambda n: relative_l2(truth[n], mean.expand(truth[n].shape))),
        "nearest_position": over_test(lambda n: nearest(known, cars[n], ["position"], 8)),
        "nearest_position_normal": over_test(
            lambda n: nearest(known, cars[n], ["position", "normal"], 20)
        ),
    }


def seconds(run: Path) -> float:
    """How long a run was trained."""
    last = (run / "log.csv").read_text().splitlines()
    return float(last[-1].split(",")[last[0].split(",").index("seconds")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--recipe", nargs="+", default=["config.toml"], help="in datasets/shapenet_car"
    )
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/shapenet_car"))
    parser.add_argument("options", nargs="*", help="key=value for the training")
    given = parser.parse_args()
    if not CARS.is_dir():
        print(f"skipped: {CARS} is not there (set MESHSIM_REAL_DATA)")
        return 0
    store = given.output / "cars.zarr"
    if shell(
        ["preprocess", str(CARS), "-o", str(store), "--config", str(RECIPE / "preprocess.toml")]
    ):
        return 1
    rows = {
        k: fold(k, meshsim.Store(store), given.output, given.recipe, given.options)
        for k in given.folds
    }
    names = [name for name in rows[given.folds[0]] if name != "cars"]
    mean = {name: float(np.mean([row[name] for row in rows.values()])) for name in names}
    print(json.dumps({"folds": rows, "mean": mean}, indent=2))
    others = ("constant", "nearest_position", "nearest_position_normal")
    beaten = all(row["model"] < row[name] for row in rows.values() for name in others)
    print("the model beats every baseline in every fold" if beaten else "NOT beaten everywhere")
    return 0 if beaten else 1


if __name__ == "__main__":
    sys.exit(main())
