"""200 airfoils: an anchored transformer beside a field without modulation, and on denser queries.

    python tests/verify/airfoils.py [--shapes 200] [-o DIR] [key=value ...]

`meshsim generate airfoils`, `preprocess`, and both models trained with the same number of steps by
`datasets/airfoils/config.toml`. The unmodulated field is one residual network of the place alone:
it knows neither shape nor angle, which is the best that can be said of all airfoils at once. Errors
are relative L2 on airfoils never seen, on their own meshes and on meshes of the same flows with
four times as many points. Exit code 1 unless the velocity error is at least five times below the
unmodulated field's, and no field's error changes by 5 % on the denser mesh.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import meshsim
from meshsim.cli.generate import load_recipe
from meshsim.data import preprocess
from meshsim.train import Config, evaluate_surrogate, train

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "datasets" / "airfoils"
POINTS = 1500
DRAWS = 4


def store(out: Path, shapes: int, points: int) -> meshsim.Store:
    """The flows on meshes of about so many points."""
    folder, path = out / f"flows{points}", out / f"flows{points}.zarr"
    load_recipe("airfoils")(folder, shapes=shapes, points=points)
    settings = tomllib.loads((RECIPE / "preprocess.toml").read_text())
    report = preprocess([folder], path, config=settings)
    if report.failed:
        sys.exit(report.failed[0][1])
    return meshsim.Store(path)


def unmodulated(raw: dict[str, Any]) -> dict[str, Any]:
    """The same recipe for a field of the place alone."""
    width = raw["model"]["width"]
    surrogate = raw["surrogate"] | {"features": [], "parameters": [], "absent": 0.0}
    surrogate["branches"] = {n: b | {"features": []} for n, b in surrogate["branches"].items()}
    model = {"name": "point_mlp", "width": 2 * width, "pooled": False}
    return raw | {"model": model, "surrogate": surrogate}


def errors(trained: meshsim.Surrogate, known: meshsim.Store, split: list[str]) -> dict[str, float]:
    """{field: mean relative L2}."""
    report = evaluate_surrogate(trained, known, split=split, draws=DRAWS)
    return {name: row["relative_l2"] for name, row in report["metrics"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/airfoils"))
    parser.add_argument("options", nargs="*", help="key=value for the training")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    flows = store(given.output, given.shapes, POINTS)
    dense = store(given.output, given.shapes, 4 * POINTS)
    held = flows.members("test")
    options = [f"data.store='{flows.path}'", *given.options]
    config = meshsim.train.read_config(RECIPE / "config.toml", options).to_dict()
    config["model"] = {"name": config["model"]["name"], **config["model"]["arguments"]}
    found: dict[str, dict[str, float]] = {}
    for name, raw in {"anchored": config, "unmodulated": unmodulated(config)}.items():
        train(Config.from_dict(raw), given.output / name)
        trained = meshsim.load(given.output / name)
        found[name] = errors(trained, flows, held)
        if name == "anchored":
            found["anchored, 4 times as dense"] = errors(trained, dense, held)
    print(json.dumps(found, indent=1))
    ours, theirs = (found[n]["volume.velocity"] for n in ("anchored", "unmodulated"))
    dense_ones = found["anchored, 4 times as dense"]
    changes = {k: dense_ones[k] / value - 1 for k, value in found["anchored"].items()}
    told = ", ".join(f"{name} {change:+.1%}" for name, change in changes.items())
    print(f"velocity: {theirs / ours:.1f} times below; on the denser meshes {told}")
    return 0 if theirs / ours >= 5 and max(map(abs, changes.values())) < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
