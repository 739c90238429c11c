"""A tiny data set and a tiny trained run, made once, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import meshsim
from meshsim.cli import main

RECIPE = """
[data]
store = "STORE"
[fields.u]
role = "state"
components = 2
[fields.speed]
role = "parameter"
location = "global"
[model]
width = 16
depth = 2
hidden_layers = 1
[train]
steps = 6
threads = 1
checkpoint_every = 2
log_every = 1
"""


def square(n: int = 6) -> meshsim.Mesh:
    """A square of n x n quads, the right half of them split into triangles, four boundaries."""
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1))
    points = np.stack([x.ravel(), y.ravel()], 1)
    i = np.arange((n + 1) * n).reshape(n, n + 1)[:, :-1].ravel()
    quads = np.stack([i, i + 1, i + n + 2, i + n + 1], 1)
    right = points[quads].mean(1)[:, 0] > 0.5
    split = quads[right]
    cells = {"quad": quads[~right], "triangle": np.concatenate([split[:, :3], split[:, [0, 2, 3]]])}
    mesh = meshsim.Mesh(points, cells)
    centre = mesh.faces.centre
    sides = {
        "inflow": centre[:, 0] < 1e-9,
        "outflow": centre[:, 0] > 1 - 1e-9,
        "wall": (centre[:, 1] < 1e-9) | (centre[:, 1] > 1 - 1e-9),
    }
    return mesh.replace(boundaries={k: torch.nonzero(v).flatten() for k, v in sides.items()})


def wave(speed: float, frames: int = 12) -> meshsim.Sample:
    """A travelling wave on the square."""
    mesh = square()
    times = 0.1 * np.arange(frames)
    phase = 6 * (mesh.points[:, 0].numpy() - speed * times[:, None])
    u = np.stack([np.sin(phase), np.cos(phase)], -1).astype(np.float32)  # (T, N, 2)
    return meshsim.Sample(meshsim.Series(mesh, times, {"u": u}), {"speed": speed}, f"wave{speed:g}")


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four files, train and test."""
    folder = tmp_path_factory.mktemp("waves")
    for split, speeds in (("train", (0.5, 0.75, 1.0)), ("test", (0.6,))):
        (folder / split).mkdir()
        for speed in speeds:
            meshsim.write(wave(speed), folder / split / f"wave_{100 * speed:.0f}.npz")
    return folder


@pytest.fixture(scope="session")
def store(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "waves.zarr"
    assert main(["preprocess", str(waves), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def recipe(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "train.toml"
    path.write_text(RECIPE.replace("STORE", str(store)))
    return path


@pytest.fixture(scope="session")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "waves"
    assert main(["train", str(recipe), "-o", str(path)]) == 0
    return path
