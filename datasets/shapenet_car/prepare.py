"""The published ShapeNet-Car layout (param0 … param8) into one mesh file a car.

    python datasets/shapenet_car/prepare.py --source mlcfd_data/training_data -o runs/cars

Each car is a folder with quadpress_smpl.vtk (3,682 points, quads) and press.npy (3,682 values);
96 of the points belong to no quad and are left out. param0 is the test set. The PLAID copy of the
data needs none of this: `meshsim preprocess` takes its folder as it lies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import meshsim
from meshsim.check import InputError
from meshsim.mesh import Cells

SURFACE = "quadpress_smpl.vtk"


def load(folder: Path) -> meshsim.Mesh:
    """One car's surface with its nodal pressure (Pa), without the points that no cell uses."""
    mesh = meshsim.read(folder / SURFACE, planar=False)
    values = folder / "press.npy"
    if not isinstance(mesh, meshsim.Mesh) or not values.exists():
        raise InputError(f"{folder}: expected one surface in {SURFACE} and its press.npy")
    pressure = torch.from_numpy(np.load(values, allow_pickle=False).ravel())
    if len(pressure) != mesh.n_points:
        raise InputError(
            f"{values}: expected {mesh.n_points} values (one a point), got {len(pressure)}"
        )
    used = torch.unique(torch.cat([block.nodes.flatten() for block in mesh.cells]))
    new = torch.full((mesh.n_points,), -1).scatter(0, used, torch.arange(len(used)))
    cells = [Cells(block.type, new[block.nodes]) for block in mesh.cells]
    return meshsim.Mesh(mesh.points[used], cells, {"pressure": pressure[used]})


def generate(
    out: Path,
    *,
    source: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `out/paramK_NAME.vtu` for each car under `source`; cars already written are kept."""
    cars = sorted(path.parent for path in Path(source).glob(f"param[0-8]/*/{SURFACE}"))
    if not cars:
        raise InputError(f"{source}: no param*/*/{SURFACE} in it")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for i, car in enumerate(cars):
        target = out / f"{car.parent.name}_{car.name}.vtu"
        if not target.exists():
            meshsim.write(load(car), target)
        written.append(target)
        if progress is not None:
            progress(i + 1, len(cars))
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="the folder with param0 … param8")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    print(len(generate(given.output, source=given.source)), "cars")
