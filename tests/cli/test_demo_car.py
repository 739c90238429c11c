"""`demo` of bodies from its first stage to the report, with a recipe that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import meshsim
from meshsim.cli import main

from .test_demo import installed
from .test_errors import fails

# Boxes in a fluid at rest whose weight is ½ ρ U²: p = −½ ρ U² z, so that cl = V / A and cd = 0.
PREPARE = """
from pathlib import Path
from collections.abc import Callable
import numpy as np
import torch
import meshsim

def generate(out: Path, *, bodies: int, seed: int = 0,
             progress: Callable[[int, int], None] | None = None) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(bodies):
        random = np.random.default_rng([seed, k])
        length, inflow = random.uniform(2, 3), random.uniform(20, 40)
        at = np.linspace(0, 1, 4)
        number = np.arange(64).reshape(4, 4, 4)
        quads = []
        for axis in range(3):
            i = np.moveaxis(number, [axis, (axis + 1) % 3, (axis + 2) % 3], [0, 1, 2])
            for side, turn in ((0, -1), (-1, 1)):
                f = i[side]
                q = np.stack([f[:-1, :-1], f[1:, :-1], f[1:, 1:], f[:-1, 1:]], -1)
                quads.append(q.reshape(-1, 4)[:, ::turn])
        used, quads = np.unique(np.concatenate(quads), return_inverse=True)
        cube = np.stack(np.meshgrid(at, at, at, indexing="ij"), -1).reshape(-1, 3)[used]
        points = (cube - [0.5, 0.5, 0]) * [length, 1, 0.5 * length] + [0, 0, 0.2]
        mesh = meshsim.Mesh(points, {"quad": quads.reshape(-1, 4)})
        p = -0.6 * inflow**2 * mesh.cell_centres[:, 2]
        mesh = mesh.with_fields(cell={"pressure": p.float()})
        paths.append(out / f"car_{k:03d}.npz")
        if not paths[-1].exists():
            meshsim.write(meshsim.Sample(mesh, {"inflow": inflow, "length": length}), paths[-1])
        if progress is not None:
            progress(k + 1, bodies)
    return paths
"""
DEMO = """
story = "car"
[generate.train_1]
bodies = 2
seed = 1
[generate.train_2]
bodies = 2
seed = 2
[generate.test]
bodies = 3
seed = 3
[preprocess]
dtype = "float32"
[preprocess.splits]
train = ["train*"]
test = ["test*"]
[judge]
density = 1.2
draws = 2
scale = 2.0
"""
TRAIN = """
[data]
store = "cars.zarr"
[model]
name = "anchored"
width = 32
heads = 2
blocks = "ps"
local = true
supernodes = 8
[surrogate]
points = 32
features = ["box_position"]
parameters = ["inflow"]
[surrogate.branches.mesh]
fields = ["pressure"]
features = ["box_position", "normal"]
anchors = 16
[train]
steps = 3
threads = 1
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"prepare.py": PREPARE, "demo.toml": DEMO, "train.toml": TRAIN}
    return installed(tmp_path / "recipes", "boxes", files, monkeypatch)


def test_from_solver_to_report_and_again(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "boxes", "-o", str(out)]) == 0
    shown = capsys.readouterr().err
    assert [line[:5] for line in shown.splitlines() if line.startswith("[")] == [
        f"[{i}/6]" for i in range(1, 7)
    ]
    found = json.loads((out / "report.json").read_text())
    assert found["bodies"] == {"train": 4, "test": 3} and len(found["cases"]) == 3
    store = meshsim.Store(out / "cars.zarr")
    for case in found["cases"]:
        # Archimedes: what the pressure lifts is the volume, and nothing pushes along
        length = float(store.sample(case["name"]).parameters["length"])
        volume, shadow = length * 0.5 * length, 0.5 * length
        assert case["lift"]["computed"] == pytest.approx(volume / shadow, rel=1e-4)
        assert abs(case["drag"]["computed"]) < 1e-5
        # one number all over a closed surface neither lifts nor drags
        assert abs(case["lift"]["training_mean"]) < 1e-4 > abs(case["drag"]["training_mean"])
        # the lift is the length, which a linear fit finds
        assert case["lift"]["linear"] == pytest.approx(length, rel=1e-4)
        assert set(case["pressure"]) == {"model", "nearest_body", "mean_body", "training_mean"}
        assert f"{case['pressure']['model']:.3f}" in shown
    assert found["lift"]["linear"]["r_squared"] == pytest.approx(1.0, abs=1e-6)
    assert found["metrics"]["pressure"]["relative_l2"] == pytest.approx(
        sum(c["pressure"]["model"] for c in found["cases"]) / 3
    )
    assert "the body's side along x" in " ".join(found["longer"]["warnings"])
    assert "the body's side along x" in shown  # and it is said while it runs
    page = (out / "report.html").read_text()
    assert "d'Alembert" in page.replace("&#x27;", "'") and "side along x" in page
    assert all((out / name).stat().st_size > 1000 for name in found["pictures"])
    answer = meshsim.read(out / "body.vtp")
    assert isinstance(answer, meshsim.Mesh) and answer.n_cells == 108 == found["bare"]["triangles"]
    assert {"pressure", "pressure_spread"} <= set(answer.cell_fields)
    assert not meshsim.read(out / "body.stl").cell_fields

    checkpoint = out / "run" / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns
    assert main(["demo", "boxes", "-o", str(out)]) == 0  # carries on: nothing is trained again
    assert checkpoint.stat().st_mtime_ns == before
    again = json.loads((out / "report.json").read_text())
    assert again["cases"] == found["cases"] and again["bare"] == found["bare"]
    other = ["demo", "boxes", "-o", str(out), "--seed", "1"]
    capsys.readouterr()
    fails(capsys, other, "train.seed was 0, now 1")


def test_what_is_wrong_is_said(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "demo"
    fails(capsys, ["demo", "boxes", "-o", str(out), "--minutes", "-1"], "train.minutes", "-1")
    demo = tiny / "boxes" / "demo.toml"
    demo.write_text(DEMO.replace('"car"', '"cra"'))
    fails(capsys, ["demo", "boxes", "-o", str(out)], "'cra'", "car")
    demo.unlink()
    fails(capsys, ["demo", "boxes", "-o", str(out)], "no demo")
    fails(capsys, ["demo", "car", "-o", str(out)], "car_bodies")  # the short name of a recipe
    assert not out.exists()
