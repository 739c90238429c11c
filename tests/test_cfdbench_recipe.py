"""datasets/cfdbench: case folders as published, made small, through to a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.cli import main
from meshsim.data import find_sources, preprocess
from meshsim.data.sources import source_files

RECIPE = Path(__file__).resolve().parents[1] / "datasets" / "cfdbench"
CAVITY = {"vel_top": 10.0, "density": 1.0, "viscosity": 1e-5, "height": 0.5, "width": 1.0}
CYLINDER = {
    "vel_in": 1.0,
    "density": 10.0,
    "viscosity": 0.001,
    "radius": 0.01,
    "x_min": -0.06,
    "x_max": 0.16,
    "y_min": -0.06,
    "y_max": 0.06,
}


def write_case(folder: Path, about: dict, times: int = 4, rows: int = 4, columns: int = 6) -> None:
    """A case whose u grows to the right and v upwards: u = x, v = y + t, at the cells' middles."""
    folder.mkdir(parents=True)
    low = [about.get("x_min", 0.0), about.get("y_min", 0.0)]
    size = [about.get("width", 0.22), about.get("height", 0.12)]
    x, y = (
        a + s * (np.arange(n) + 0.5) / n for a, s, n in zip(low, size, (columns, rows), strict=True)
    )
    u = np.broadcast_to(x, (times, rows, columns))
    v = np.broadcast_to(y[:, None], u.shape) + np.arange(times)[:, None, None]
    np.save(folder / "u.npy", u.astype(np.float32))
    np.save(folder / "v.npy", v.astype(np.float32))
    (folder / "case.json").write_text(json.dumps(about))


@pytest.mark.parametrize("about", [CAVITY, CYLINDER])
@pytest.mark.parametrize("trust", [True, False])
def test_a_case_lies_where_it_should(tmp_path, about, trust):
    write_case(tmp_path / "case0000", about)
    sample = meshsim.read(tmp_path / "case0000", trust=trust)
    series = sample.branch
    assert {name: float(value) for name, value in sample.parameters.items()} == about
    assert series.mesh.n_cells == 24 and len(series) == 4
    centres = series.mesh.cell_centres
    for t in range(4):
        velocity = series.frame(t).cell_fields["velocity"]
        assert velocity.dtype == torch.float32
        exact = torch.stack([centres[:, 0], centres[:, 1] + t], 1)
        assert torch.allclose(velocity.double(), exact, atol=1e-6)
    box = [series.mesh.points.amin(0).tolist(), series.mesh.points.amax(0).tolist()]
    if about is CAVITY:
        assert box == [[0, 0], [1, 0.5]]
    else:
        assert box == [[-0.06, -0.06], [0.16, 0.06]]
    bottom = series.mesh.points[series.mesh.boundary_points("bottom")]
    assert len(bottom) == 7 and bool((bottom[:, 1] == box[0][1]).all())
    assert sorted(series.mesh.boundaries) == ["bottom", "left", "right", "top"]
    assert float(series.mesh.cell_measures.sum()) == pytest.approx(
        (box[1][0] - box[0][0]) * (box[1][1] - box[0][1])
    )


def test_the_dams_inflow_is_not_called_like_the_field(tmp_path):
    about = {"case_no": 0.0, "velocity": 0.05, "height": 0.4, "width": 1.5, "barrier_height": 0.1}
    write_case(tmp_path / "case0000", about)
    sample = meshsim.read(tmp_path / "case0000", trust=True)
    assert float(sample.parameters["vel_in"]) == 0.05 and "velocity" not in sample.parameters


def test_cases_are_found_by_their_folders(tmp_path):
    for subset, number in (("bc", 0), ("bc", 1), ("geo", 0), ("prop", 12)):
        write_case(tmp_path / "cavity" / subset / f"case{number:04d}", CAVITY)
    (tmp_path / "cavity" / "bc" / "readme.txt").write_text("")
    found = find_sources(tmp_path / "cavity")
    assert [s.name for s in found] == [
        *("bc/case0000", "bc/case0001", "geo/case0000", "prop/case0012"),
    ]
    assert sorted(path.name for path in source_files(found[0])) == ["case.json", "u.npy", "v.npy"]
    report = preprocess(tmp_path / "cavity", tmp_path / "s.zarr", config={"trust": True, "dt": 0.1})
    assert (report.done, report.failed) == (4, [])
    series = meshsim.Store(tmp_path / "s.zarr").sample("bc/case0000").branch
    assert torch.allclose(series.times, torch.arange(4).double() * 0.1)
    some = {"trust": True, "dt": 0.1, "frames": [1, 0, 2]}
    preprocess(tmp_path / "cavity", tmp_path / "t.zarr", config=some)
    series = meshsim.Store(tmp_path / "t.zarr").sample("bc/case0000").branch
    assert torch.allclose(series.times, torch.tensor([0.1, 0.3]).double())


def test_faults_are_said(tmp_path):
    folder = tmp_path / "case0000"
    write_case(folder, CAVITY)

    def fails(message):
        with pytest.raises(InputError, match=message):
            meshsim.read(folder, trust=True)

    good = (folder / "v.npy").read_bytes()
    np.save(folder / "v.npy", np.zeros((4, 5, 6), np.float32))
    fails(r"u\.npy has shape \(4, 4, 6\), v\.npy \(4, 5, 6\)")
    np.save(folder / "v.npy", np.zeros((5, 6), np.float32))
    fails(r"v\.npy: expected shape \(T, H, W\), got \(5, 6\)")
    (folder / "v.npy").write_bytes(good[:-20])
    fails("case0000: ")
    (folder / "v.npy").write_bytes(good)
    (folder / "case.json").write_text(json.dumps({**CAVITY, "width": "wide"}))
    fails("case.json: 'width': expected a number, got 'wide'")
    (folder / "case.json").write_text(json.dumps({"density": 1.0}))
    fails("has no `width` and `height`")
    (folder / "case.json").write_text("[")
    fails("not JSON")
    for name, dt in (("`dt`: expected a number from 0, got -1.0", -1.0), ("`dt`: expected", "x")):
        with pytest.raises(InputError, match=name):
            find_sources(folder, {"dt": dt})


def test_the_recipe_trains_on_a_folder_as_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in range(6):
        about = {**CAVITY, "vel_top": 1.0 + n, "density": 1.0 + n % 2, "viscosity": 0.1 / (n + 1)}
        write_case(tmp_path / "cavity" / "bc" / f"case{n:04d}", about)
    config = str(RECIPE / "preprocess.toml")
    assert main(["preprocess", "cavity", "-o", "cavity.zarr", "--config", config]) == 0
    small = ["model.width=8", "model.depth=2", "train.steps=2", "train.threads=1"]
    assert main(["train", str(RECIPE / "config.toml"), "-o", "run", *small]) == 0
    assert main(["evaluate", "run", "cavity.zarr", "--json"]) == 0
