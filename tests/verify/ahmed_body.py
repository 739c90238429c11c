"""Ahmed-type bodies left out in groups: surface pressure, drag and lift beside linear regressions.

    python tests/verify/ahmed_body.py [--bodies DIR] [--groups 4] [-o DIR] [key=value ...]

The bodies are what `datasets/ahmed_body/prepare.py -o runs/ahmed_body/bodies --cases 30` writes.
Each group of them is predicted by a surrogate trained on all others (its `config.toml`); drag and
lift are the predicted pressure and friction integrated over the body. The rivals know the eight
design values: a least-squares plane for each coefficient, and for the pressure one for each place:
the pressures of the other bodies, carried there by place in the bounding box and normal, against
their design values. "mean" is that of the other bodies. A finished group is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

import meshsim
from meshsim import render
from meshsim.cli import main as shell
from meshsim.clouds import cloud
from meshsim.physics.designs import coefficients, r_squared, spearman, weighted_relative_l2
from meshsim.physics.forces import forces

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "datasets" / "ahmed_body"
DRAWS = 4  # of anchors, over which a prediction is averaged
DESIGN = ("slant", "length", "width", "height", "slant_length", "radius", "clearance", "inflow")
PICTURES = 2


class Body(NamedTuple):
    """A solved body.

    Arguments:
        mesh: its surface.
        known: design values and what else belongs to it.
        drag, lift: coefficients as OpenFOAM integrated them.
    """

    mesh: meshsim.Mesh
    known: dict[str, float]
    drag: float
    lift: float

    @property
    def dynamic(self) -> float:
        """½ ρ U² (Pa)."""
        return 0.5 * self.known["density"] * self.known["inflow"] ** 2

    def coefficients(self, pressure: Tensor, stress: Tensor) -> tuple[float, float]:
        """Drag and lift of fields on its cells."""
        force = forces(self.mesh.points, self.mesh.cells, pressure, stress, on="cell")
        found = coefficients(force, self.known["density"], self.known["inflow"], self.known["area"])
        return float(found["drag"]), float(found["lift"])


def load(store: meshsim.Store) -> dict[str, Body]:
    """{name: body}, with pressures in float64."""
    out = {}
    for name in store.names:
        sample = store.sample(name)
        mesh = sample.branches["surface"]
        held = {k: float(v) for k, v in mesh.global_fields.items() if v.numel() == 1}
        known = {k: float(v) for k, v in sample.parameters.items()}
        out[name] = Body(mesh, known, held["drag_coefficient"], held["lift_coefficient"])
    return out


def plane(known: Tensor, values: Tensor, asked: Tensor) -> Tensor:
    """Least squares with an intercept: (n, p), (n, …) and (m, p) to (m, …)."""
    mean, std = known.mean(0), known.std(0)
    one = torch.ones(len(known), 1, dtype=known.dtype)
    a = torch.cat([one, (known - mean) / std], 1)
    b = torch.cat([one[: len(asked)], (asked - mean) / std], 1)
    return b @ torch.linalg.lstsq(a, values, driver="gelsd").solution


def carried(others: list[Body], body: Body) -> Tensor:
    """(n, C) pressure coefficients of other bodies at the places of this one."""

    def where(of: Body) -> np.ndarray:
        made = cloud(of.mesh, "cell", ["box_position", "normal"], of.mesh)
        return torch.cat([*made.features.values()], 1).double().numpy()

    rows = []
    for other in others:
        _, index = cKDTree(where(other)).query(where(body))
        cp = other.mesh.cell_fields["pressure"].double() / other.dynamic
        rows.append(cp[torch.from_numpy(index)])
    return torch.stack(rows)


def judge(store: meshsim.Store, held: list[str], run: Path, options: list[str]) -> list[dict]:
    """Train without the bodies `held`, and one row of figures for each of them."""
    bodies = load(store)
    rest = [n for n in store.names if n not in held]
    chosen = [f"data.store='{store.path}'", f"data.train={rest}", f"data.valid={held}"]
    if shell(["train", str(RECIPE / "config.toml"), "-o", str(run), *chosen, *options]):
        sys.exit("training failed")
    surrogate = meshsim.load(run)
    design = torch.tensor([[bodies[n].known[k] for k in DESIGN] for n in rest]).double()
    measured = torch.tensor([[bodies[n].drag, bodies[n].lift] for n in rest]).double()
    rows = []
    for name in held:
        body = bodies[name]
        truth = body.mesh.cell_fields["pressure"].double()
        area = body.mesh.cell_measures
        guess = surrogate.predict(store.sample(name), draws=DRAWS).branches["surface"]
        pressure = guess.cell_fields["pressure"].double()
        drag, lift = body.coefficients(pressure, guess.cell_fields["wall_shear_stress"].double())
        own = body.coefficients(truth, body.mesh.cell_fields["wall_shear_stress"].double())
        asked = torch.tensor([[body.known[k] for k in DESIGN]]).double()
        line = plane(design, measured, asked)[0]
        cp = carried([bodies[n] for n in rest], body)
        rivals = {"linear": plane(design, cp, asked)[0], "mean": cp.mean(0)}
        rows.append(
            {
                "name": name,
                "slant": body.known["slant"],
                "pressure": {
                    "model": weighted_relative_l2(truth, pressure, area),
                    **{
                        k: weighted_relative_l2(truth, v * body.dynamic, area)
                        for k, v in rivals.items()
                    },
                },
                "drag": {
                    "true": body.drag, "stored fields": own[0], "model": drag,
                    "linear": float(line[0]), "mean": float(measured[:, 0].mean()),
                },
                "lift": {
                    "true": body.lift, "stored fields": own[1], "model": lift,
                    "linear": float(line[1]), "mean": float(measured[:, 1].mean()),
                },
            }
        )  # fmt: skip
        meshsim.write(guess, run / f"{name}.vtp")
    for name in held[:PICTURES]:
        back = meshsim.read(run / f"{name}.vtp")
        render.compare(bodies[name].mesh, back, "pressure", run / f"{name}.png", unit="Pa", up="z")
    return rows


def table(rows: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """{quantity: {who: figures}} over all bodies."""
    out: dict[str, dict[str, dict[str, float]]] = {
        "pressure": {
            who: {"relative_l2": float(np.mean([row["pressure"][who] for row in rows]))}
            for who in ("model", "linear", "mean")
        }
    }
    for name in ("drag", "lift"):
        truth = torch.tensor([row[name]["true"] for row in rows]).double()
        out[name] = {}
        for who in ("stored fields", "model", "linear", "mean"):
            guess = torch.tensor([row[name][who] for row in rows]).double()
            out[name][who] = {
                "mean_absolute_error": float((guess - truth).abs().mean()),
                "r_squared": r_squared(truth, guess),
                "spearman": spearman(truth, guess),
            }
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bodies = Path("runs/ahmed_body/bodies")
    parser.add_argument("--bodies", type=Path, default=bodies, help="what prepare.py wrote")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--only", type=int, nargs="+", help="some of the groups")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/ahmed_body"))
    parser.add_argument("options", nargs="*", help="key=value for the training")
    given = parser.parse_args()
    if not given.bodies.is_dir():
        print(f"skipped: {given.bodies} is not there (datasets/ahmed_body/prepare.py makes it)")
        return 0
    path, recipe = given.output / "ahmed.zarr", str(RECIPE / "preprocess.toml")
    if shell(["preprocess", str(given.bodies), "-o", str(path), "--config", recipe]):
        return 1
    store = meshsim.Store(path)
    rows = []
    for group in given.only or range(given.groups):
        held = store.names[group :: given.groups]
        found = judge(store, held, given.output / f"group{group}", given.options)
        print(json.dumps(found), flush=True)
        rows += found
    (given.output / "rows.json").write_text(json.dumps(rows, indent=1))
    print(json.dumps(table(rows), indent=1))
    for name in ("drag", "lift"):
        truth, *others = ([row[name][who] for row in rows] for who in ("true", "model", "linear"))
        series = dict(zip(("anchored", "linear regression"), others, strict=True))
        render.parity(truth, series, given.output / f"{name}.png", name=f"{name} coefficient")
    return 0


if __name__ == "__main__":
    sys.exit(main())
