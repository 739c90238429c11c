"""Bare arrays (points, triangles, snapshots) into a mesh, a series and a file: public calls only.

    python datasets/ezyrb_channel/prepare.py -o runs/ezyrb

The arrays are EZyRB's `data_2d` example: flow past a cylinder in a 5 x 1 channel, 59 snapshots of
p, vx, vy on 3,067 nodes. They are read where they lie (MESHSIM_REAL_DATA, or --source).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import meshsim
from meshsim.check import InputError

FOLDER = "mathLab__EZyRB/ezyrb/parallel/examples/data_2d"


def load(source: Path) -> meshsim.Sample:
    """The 59 snapshots as a sample: one series on one mesh with named boundaries.

    Arguments:
        source: the folder with pts.npy, cells.npy, time.npy and snapshots_*.npy.
    """

    def array(name: str) -> np.ndarray:
        path = source / f"{name}.npy"
        if not path.exists():
            raise InputError(f"{path}: no such file (expected EZyRB's data_2d folder)")
        return np.load(path, allow_pickle=False)

    mesh = meshsim.Mesh(array("pts")[:, :2], {"triangle": array("cells")})
    faces = mesh.faces
    outside = torch.nonzero(faces.neighbour < 0).flatten()
    x, y = faces.centre[outside].T
    low, high = mesh.points.min(0).values, mesh.points.max(0).values
    on = {
        "inlet": torch.isclose(x, low[0]),
        "outlet": torch.isclose(x, high[0]),
        "walls": torch.isclose(y, low[1]) | torch.isclose(y, high[1]),
    }
    on["cylinder"] = ~(on["inlet"] | on["outlet"] | on["walls"])
    mesh = mesh.replace(boundaries={name: outside[where] for name, where in on.items()})
    velocity = np.stack([array("snapshots_vx"), array("snapshots_vy")], axis=-1)  # (T, N, 2)
    series = meshsim.Series(
        mesh,
        array("time").ravel(),
        {"velocity": velocity, "pressure": array("snapshots_pressure")},
    )
    return meshsim.Sample(series, name="channel")


def generate(
    out: Path,
    *,
    source: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `out/channel.npz`, ready for `meshsim preprocess`."""
    root = Path(os.environ.get("MESHSIM_REAL_DATA", "../shared/data")) / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    target = out / "channel.npz"
    meshsim.write(load(Path(source) if source else root), target)
    if progress is not None:
        progress(1, 1)
    return [target]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--source", default="", help="folder with pts.npy, cells.npy, …")
    given = parser.parse_args()
    print(*generate(given.output, source=given.source))
