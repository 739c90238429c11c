"""datasets/car_bodies: watertight bodies of the asked sizes, no drag, and what the files hold."""

import importlib.util
import json
import math
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.data import preprocess
from meshsim.geometry.measure import cell_normals, signed_measures
from meshsim.physics import source_panels

FOLDER = Path(__file__).resolve().parents[1] / "datasets" / "car_bodies"
_spec = importlib.util.spec_from_file_location("recipe_car_bodies", FOLDER / "prepare.py")
assert _spec is not None and _spec.loader is not None
recipe = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = recipe
_spec.loader.exec_module(recipe)

TINY = {"bodies": 2, "faces": 150, "seed": 3}
DRAWN = [recipe.drawn(np.random.default_rng([1, k])) for k in range(8)]


@pytest.mark.parametrize("faces", [60, 500, 2000])
def test_surfaces_are_watertight_and_point_outwards(faces):
    """Every side of a quad is that of one other, run the other way; ∮ n dA = 0; ⅓ ∮ x·n dA > 0."""
    for body, _ in DRAWN:
        mesh = recipe.surface(body, faces)
        nodes = mesh.cells[0].nodes
        assert mesh.cells[0].type == "quad" and abs(mesh.n_cells - faces) < 0.2 * faces
        sides = torch.stack([nodes, nodes.roll(-1, 1)], -1).reshape(-1, 2).tolist()
        assert len({*map(tuple, sides)}) == len(sides)
        assert {(b, a) for a, b in sides} == {*map(tuple, sides)}
        assert mesh.n_points - len(sides) // 2 + mesh.n_cells == 2  # Euler: a ball
        area = cell_normals(mesh.points, mesh.cells)
        assert area.sum(0).abs().max() < 1e-12
        volume = float((area * mesh.cell_centres).sum()) / 3
        box = body.length * body.width * (body.height - body.clearance)
        assert 0.5 * box < volume < 0.9 * box


def test_bodies_have_the_sizes_asked_for():
    for body, _ in DRAWN:
        points = recipe.surface(body, 4000).points
        low, high = points.amin(0), points.amax(0)
        assert float(high[0]) == pytest.approx(body.length / 2, rel=1e-3)
        assert float(high[1] - low[1]) == pytest.approx(body.width, rel=0.02)
        assert float(low[2]) == pytest.approx(body.clearance, abs=2e-3)
        assert float(high[2]) == pytest.approx(body.height, rel=0.01)
        x = torch.linspace(-body.length / 2, body.length / 2, 2001, dtype=torch.float64)
        top = body.top(x)
        assert float(top[0]) == pytest.approx(body.bonnet, abs=0.03)
        slope = top.diff() / x.diff()
        # half-way up a slant; crown and rounding take some off
        for degrees, steepest in ((body.windscreen, slope.max()), (body.rear, -slope.min())):
            assert math.degrees(math.atan(float(steepest))) == pytest.approx(degrees, rel=0.2)
        assert body.roof() > 0


def test_inside_is_inside():
    for body, _ in DRAWN:
        points = recipe.surface(body, 500).points
        middle = torch.tensor([0.0, 0.0, (body.clearance + body.bonnet) / 2]).double()
        # towards the middle the floor is flat, and the roof line is hollow in front of the screen
        assert body.inside(middle + 0.8 * (points - middle)).all()
        assert not body.inside(middle + 1.05 * (points - middle)).any()


def test_no_drag():
    """d'Alembert: along the wind the pressures cancel, the better the finer the panels."""
    off = []
    for faces in (300, 1200):
        ratios = []
        for body, inflow in DRAWN[:2]:
            mesh = recipe.surface(body, faces)
            wind = torch.tensor([inflow, 0.0, 0.0], dtype=torch.float64)
            flow = source_panels.solve(mesh.points, mesh.cells, wind, ground=(2, 0.0))
            assert flow.residual < 1e-8
            ratios.append(float(flow.force[0] / (flow.cp.abs() @ flow.panels.area)))
            assert abs(float(flow.force[1])) < 1e-9  # as wide to the left as to the right
            assert flow.cp.max() <= 1 and flow.force[2] < 0  # drawn to the ground
        off.append(float(np.sqrt(np.mean(np.square(ratios)))))
    assert off[1] < 0.8 * off[0] and off[1] < 0.005, off


def test_files_hold_the_flow(tmp_path):
    calls: list[tuple[int, int]] = []
    paths = recipe.generate(tmp_path, **TINY, progress=lambda *n: calls.append(n))
    assert [p.name for p in paths] == ["car_000.npz", "car_001.npz"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in paths]
    assert calls == [(0, 2), (1, 2), (2, 2)]
    for path in paths:
        sample = meshsim.read(path, trust=True)
        known = {name: float(value) for name, value in sample.parameters.items()}
        inflow = known.pop("inflow")
        body = recipe.Body(**known)
        mesh = sample.mesh
        assert torch.equal(mesh.points, recipe.surface(body, 150).points)
        cp, pressure, velocity = (mesh.cell_fields[n] for n in ("cp", "pressure", "velocity"))
        assert cp.dtype == torch.float32 and not mesh.point_fields
        assert torch.allclose(pressure, 0.6 * inflow**2 * cp, rtol=1e-4, atol=1e-3)
        assert torch.allclose(cp, 1 - (velocity / inflow).square().sum(1), atol=1e-5)
        normal = torch.nn.functional.normalize(cell_normals(mesh.points, mesh.cells)).float()
        assert (velocity * normal).sum(1).abs().max() < 5e-3 * inflow
        assert 20 <= inflow <= 40

    at_points = recipe.generate(tmp_path / "p", **TINY | {"bodies": 1, "at": "points"})[0]
    other, cells = (meshsim.read(p, trust=True).mesh for p in (at_points, paths[0]))
    assert not other.cell_fields
    field = other.point_fields["pressure"]
    assert field.shape == (other.n_points,)
    around = (cells.cells[0].nodes == 7).any(1)
    weight = cells.cell_measures[around]
    mean = (cells.cell_fields["pressure"][around] * weight).sum() / weight.sum()
    assert float(field[7]) == pytest.approx(float(mean), rel=1e-5)


def test_volume_around_a_body(tmp_path):
    folder = recipe.generate(tmp_path, **TINY | {"bodies": 1, "volume": 3000})[0]
    parameters = json.loads((folder / "parameters.json").read_text())["parameters"]
    inflow = parameters.pop("inflow")
    body = recipe.Body(**parameters)
    mesh = meshsim.read(folder / "volume.npz", trust=True)
    assert mesh.cells[0].type == "hexahedron" and 2000 < mesh.n_points < 3500
    assert (signed_measures(mesh.points, mesh.cells) > 0).all()
    assert not body.inside(mesh.points).any() and not body.inside(mesh.cell_centres).any()
    faces = sum(len(b.faces) for b in mesh.boundaries.values())
    assert faces == int((mesh.faces.neighbour < 0).sum())
    assert set(mesh.boundaries) == {"ground", "far", "body"}
    velocity = mesh.point_fields["velocity"]
    assert velocity[mesh.boundary_points("ground"), 2].abs().max() == 0
    ahead = mesh.points[:, 0] < -1.45 * body.length
    assert (velocity[ahead, 0] / inflow - 1).abs().max() < 0.05
    side = velocity[mesh.points[:, 1] == 0, 1]
    assert side.abs().max() < 1e-4 * inflow if len(side) else True


def test_repeats_and_carries_on(tmp_path):
    first = recipe.generate(tmp_path, **TINY)
    kept, lost = first[0].stat().st_mtime_ns, first[1].read_bytes()
    first[1].unlink()
    recipe.generate(tmp_path, **TINY | {"bodies": 3})  # the others stay what they are
    assert first[0].stat().st_mtime_ns == kept
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lost.npz").write_bytes(lost)
    with np.load(first[1]) as again, np.load(tmp_path / "b" / "lost.npz") as before:
        assert again.files == before.files
        assert all(np.array_equal(again[k], before[k]) for k in before.files)
    for change in ({"seed": 4}, {"faces": 160}, {"at": "points"}):
        with pytest.raises(InputError, match=r"car_000\.npz: holds another case"):
            recipe.generate(tmp_path, **TINY | change)
    np.savez(tmp_path / "b" / "car_000.npz", points=np.zeros((1, 3)))
    with pytest.raises(InputError, match="not written by this recipe"):
        recipe.generate(tmp_path / "b", **TINY)


def test_into_a_store(tmp_path):
    recipe.generate(tmp_path / "a", **TINY)
    report = preprocess([tmp_path / "a"], tmp_path / "a.zarr", config={"trust": True})
    assert report.done == 2 and not report.failed
    sample = meshsim.Store(tmp_path / "a.zarr").sample("car_001")
    assert set(sample.branches) == {"mesh"} and len(sample.parameters) == 11

    recipe.generate(tmp_path / "b", **TINY | {"bodies": 3, "volume": 300})
    config = tomllib.loads((FOLDER / "volume.toml").read_text()) | {"trust": True}
    report = preprocess([tmp_path / "b"], tmp_path / "b.zarr", config=config)
    assert report.done == 3 and not report.failed
    store = meshsim.Store(tmp_path / "b.zarr")
    assert [len(store.splits[s]) for s in ("train", "test")] == [2, 1]
    sample = store.sample("car_001")
    assert set(sample.branches) == {"surface", "volume"} and len(sample.parameters) == 11


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bodies": 0}, "bodies, faces, volume: expected at least 1"),
        ({"faces": 10}, "at least 50"),
        ({"volume": -1}, "0 or more"),
        ({"at": "nodes"}, "at: expected 'cells' or 'points', got 'nodes'"),
    ],
)
def test_bad_arguments(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        recipe.generate(tmp_path, **TINY | given)
