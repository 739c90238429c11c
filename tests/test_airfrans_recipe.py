"""datasets/airfrans: a small folder as published ends up whole in a store, and trains.

The contours are circles of radius r in the plane z = 0.5 with p = b x, so that the force of the
pressure is −b π r² e_x in the limit; of the polygon it is −b A e_x with A its area.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import meshsim
from meshsim.cli import main
from meshsim.data import preprocess, read_preprocess_config
from meshsim.physics.forces import body_forces

FOLDER = Path(__file__).resolve().parents[1] / "datasets" / "airfrans"
# four digits of NACA give three numbers, five give four
NAMES = [
    "airFoil2D_SST_43.597_5.932_3.551_3.1_1.0_18.252",
    "airFoil2D_SST_58.831_-3.563_2.815_4.916_10.078",
    "airFoil2D_SST_31.283_-4.156_0.919_6.98_14.32",
    "airFoil2D_SST_84.367_14.837_0.843_4.812_12.138",
]
AROUND, OUT = 32, 6


def write_simulation(root: Path, name: str) -> dict[str, np.ndarray]:
    """Both files of a simulation, arrays at points and in cells as published."""
    import pyvista as pv

    inflow = float(name.split("_")[2])
    turn = 2 * np.pi * np.arange(AROUND) / AROUND
    radius = 0.3 + 0.001 * inflow
    rings = radius * 1.4 ** np.arange(OUT)
    x = rings[:, None] * np.cos(turn)
    y = rings[:, None] * np.sin(turn)
    points = np.stack([x, y, np.full_like(x, 0.5)], -1).reshape(-1, 3).astype("f4")
    at = np.arange(len(points)).reshape(OUT, AROUND)
    nodes = np.stack(
        [at[:-1], at[1:], np.roll(at[1:], -1, 1), np.roll(at[:-1], -1, 1)], -1
    ).reshape(-1, 4)
    internal = pv.UnstructuredGrid({pv.CellType.QUAD: nodes}, points)
    far = (np.hypot(points[:, 0], points[:, 1]) / radius - 1) / 5
    velocity = inflow * far[:, None] * np.array([1.0, 0.1, 0.0])
    fields = {
        "U": velocity.astype("f4"),
        "p": (-inflow * points[:, 0]).astype("f4"),
        "nut": (1e-4 * far).astype("f4"),
        "implicit_distance": (-far * 5 * radius).astype("f4"),
    }
    edge = pv.PolyData(
        points[:AROUND],
        lines=np.c_[np.full(AROUND, 2), at[0], np.roll(at[0], -1)].ravel(),
    )
    for key, values in fields.items():
        internal.point_data[key] = values
        internal.cell_data[key] = values[nodes].mean(1)
        if key != "implicit_distance":
            edge.point_data[key] = values[:AROUND]
            edge.cell_data[key] = values[:AROUND]
    edge.point_data["Normals"] = (-points[:AROUND] * [1, 1, 0] / radius).astype("f4")
    (root / name).mkdir(parents=True)
    internal.save(root / name / f"{name}_internal.vtu")
    edge.save(root / name / f"{name}_aerofoil.vtp")
    edge.save(root / name / f"{name}_freestream.vtp")
    return fields | {"points": points, "nodes": nodes}


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    root = tmp_path / "Dataset"
    made = {name: write_simulation(root, name) for name in NAMES}
    elsewhere = "airFoil2D_SST_60.0_1.0_2.0_4.0_12.0"  # not downloaded
    lists = {"full_train": [*NAMES[:3], elsewhere], "full_test": NAMES[3:]}
    lists |= {"scarce_train": NAMES[:1], "aoa_train": NAMES[1:3], "aoa_test": [NAMES[3], NAMES[0]]}
    (root / "manifest.json").write_text(json.dumps(lists))
    return root, made


def test_from_the_published_folder_to_a_prediction(
    tmp_path: Path, published: tuple[Path, dict], capsys: pytest.CaptureFixture
) -> None:
    root, made = published
    store = tmp_path / "s.zarr"
    config = str(FOLDER / "preprocess.toml")
    assert main(["preprocess", str(root), "-o", str(store), "--config", config]) == 0
    assert "4 samples written, 0 there already, 0 failed" in capsys.readouterr().err
    opened = meshsim.Store(store)
    assert opened.splits == {"train": sorted(NAMES[:3]), "test": NAMES[3:]}
    for name, given in made.items():
        sample = opened.sample(name)
        known = {key: float(x) for key, x in sample.parameters.items()}
        inflow, angle = (float(part) for part in name.split("_")[2:4])
        assert known == {"inflow": inflow, "angle": angle}
        volume, surface = sample.branches["volume"], sample.branches["surface"]
        assert isinstance(volume, meshsim.Mesh) and isinstance(surface, meshsim.Mesh)
        assert volume.dim == surface.dim == 2 and volume.z == 0.5
        assert np.array_equal(volume.cells[0].nodes.numpy(), given["nodes"])
        assert not volume.cell_fields and not surface.cell_fields
        fields = {"velocity": "U", "pressure": "p", "nut": "nut", "distance": "implicit_distance"}
        assert set(volume.point_fields) == set(fields)
        for key, source in fields.items():
            values = given[source][:, :2] if source == "U" else given[source]
            assert np.array_equal(volume.point_fields[key].numpy(), values)
        assert torch.equal(surface.points, volume.points[:AROUND])
        assert torch.equal(
            surface.point_fields["pressure"], volume.point_fields["pressure"][:AROUND]
        )
        x, y = surface.points.double().T
        area = float((x * y.roll(-1) - y * x.roll(-1)).sum()) / 2
        force = body_forces(surface, "pressure")
        assert float(force.total[0]) == pytest.approx(inflow * area, rel=1e-5)

    run = tmp_path / "run"
    small = ["train.steps=2", "train.threads=1", "model.width=16", "model.heads=2"]
    small += ["model.supernodes=16", "surrogate.points=32", "train.checkpoint_every=1"]
    small += [f"surrogate.branches.{branch}.anchors=32" for branch in ("surface", "volume")]
    given = [f"data.store={store}", *small]
    assert main(["train", str(FOLDER / "config.toml"), "-o", str(run), *given]) == 0
    assert main(["evaluate", str(run), str(store)]) == 0
    contour = root / NAMES[3] / f"{NAMES[3]}_aerofoil.vtp"
    answer, at = tmp_path / "answer.vtp", ["inflow=60.0", "angle=2.0"]
    assert main(["predict", str(run), str(contour), "-o", str(answer), *at]) == 0
    found = meshsim.read(answer, trust=True)
    assert isinstance(found, meshsim.Mesh)
    assert found.point_fields["pressure"].shape == (AROUND,)


def test_other_tasks_are_other_keys(tmp_path: Path, published: tuple[Path, dict]) -> None:
    root, _ = published
    config = read_preprocess_config(FOLDER / "preprocess.toml") | {"trust": True}
    config["splits"] = {s: {"json": "manifest.json", "key": f"aoa_{s}"} for s in ("train", "test")}
    assert preprocess([root], tmp_path / "s.zarr", config=config).done == 4
    splits = meshsim.Store(tmp_path / "s.zarr").splits
    assert splits == {"train": sorted(NAMES[1:3]), "test": sorted([NAMES[0], NAMES[3]])}


def test_what_a_simulation_lacks_is_said(tmp_path: Path, published: tuple[Path, dict]) -> None:
    root, _ = published
    (root / NAMES[0] / f"{NAMES[0]}_aerofoil.vtp").unlink()
    shutil.copytree(root / NAMES[1], root / "airFoil2D_odd")
    config = read_preprocess_config(FOLDER / "preprocess.toml") | {"trust": True}
    report = preprocess([root], tmp_path / "s.zarr", config=config)
    failed = {Path(path).name: message for path, message in report.failed}
    assert report.done == 3 and set(failed) == {NAMES[0], "airFoil2D_odd"}
    assert "no file fits branch 'surface' (*_aerofoil.vtp)" in failed[NAMES[0]]
    assert "sample 'airFoil2D_odd': `parameters.name` does not fit" in failed["airFoil2D_odd"]
    assert meshsim.Store(tmp_path / "s.zarr").splits["train"] == sorted(NAMES[1:3])
