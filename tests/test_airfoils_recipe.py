"""datasets/airfoils: contours, grids around them, and what the files hold."""

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
from meshsim.geometry.measure import signed_measures
from meshsim.mesh import Cells
from meshsim.physics import vortex_panels

FOLDER = Path(__file__).resolve().parents[1] / "datasets" / "airfoils"
_spec = importlib.util.spec_from_file_location("recipe_airfoils", FOLDER / "prepare.py")
assert _spec is not None and _spec.loader is not None
recipe = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = recipe
_spec.loader.exec_module(recipe)

TINY = {"shapes": 3, "points": 200, "seed": 5}


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_contours_are_airfoils(kind):
    """Of chord one, counter-clockwise, closed, simple, and nowhere too thin."""
    for k in range(25):
        ring = recipe.contour(kind, np.random.default_rng(k), 61)
        assert ring.shape == (121, 2) and torch.equal(ring[0], ring[-1])
        assert not recipe.crosses(ring)
        x, y = ring.unbind(1)
        assert x[0] == 1 and abs(float(y[0])) < 1e-12 and float(x.min()) > -0.02
        area = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
        assert 0.02 < area < 0.2
        upper, lower = ring[:61].flip(0).numpy(), ring[60:].numpy()
        at = np.linspace(0.03, 0.89, 50)
        gap = np.interp(at, *upper.T) - np.interp(at, *lower.T)
        assert gap.min() > 0.95 * recipe.THINNEST and gap.max() < 0.21


def test_random_shapes_that_are_too_thin_are_drawn_again():
    draws = [recipe.smooth(np.random.default_rng(k), 0.045, 61) for k in range(60)]
    assert any(d is None for d in draws) and any(d is not None for d in draws)


def test_crossing_sides_are_seen():
    eight = torch.tensor([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]).double()
    assert recipe.crosses(eight)
    assert not recipe.crosses(eight[[0, 2, 1, 3, 0]])


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_grids_fit_their_airfoil(kind):
    """Positive cells of fair angles that fill the ring between contour and circle, wall dense."""
    for k in range(10):
        ring = recipe.contour(kind, np.random.default_rng(k), 353 // 2 + 1)[::4]
        at, quads = recipe.o_grid(ring, 17, 4.0)
        m = len(ring) - 1
        assert at.shape == (17 * m, 2) and torch.equal(at[:m], ring[:-1])
        area = signed_measures(at, [Cells("quad", quads)])
        assert (area > 0).all()
        outer = at[-m:]
        radius = (outer - outer.mean(0)).norm(dim=1)
        assert radius.min() > 3.8 and radius.max() < 4.2
        loops = [torch.cat([loop, loop[:1]]) for loop in (outer, at[:m])]
        whole, hole = ((p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1]).sum() / 2 for p in loops)
        assert float(area.sum()) == pytest.approx(float(whole - hole))
        corner = at[quads]
        ahead, back = corner.roll(-1, 1) - corner, corner.roll(1, 1) - corner
        cosine = (ahead * back).sum(2) / (ahead.norm(dim=2) * back.norm(dim=2))
        assert math.degrees(math.acos(float(cosine.max()))) > 40
        first = (at[m : 2 * m] - at[:m]).norm(dim=1)
        assert first.max() < 0.05 < (at[-m:] - at[-2 * m : -m]).norm(dim=1).min()


def test_files_hold_the_flow(tmp_path):
    calls: list[tuple[int, int]] = []
    folders = recipe.generate(tmp_path / "a", **TINY, progress=lambda *n: calls.append(n))
    assert [f.name for f in folders] == ["airfoil_000", "airfoil_001", "airfoil_002"]
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f.name for f in folders]
    for folder in folders:
        surface, volume = (
            meshsim.read(folder / f"{b}.npz", trust=True) for b in ("surface", "volume")
        )
        angle = json.loads((folder / "parameters.json").read_text())["parameters"]["angle"]
        assert abs(angle) <= math.radians(10)
        assert surface.dim == volume.dim == 2 and abs(volume.n_points - 200) < 30
        assert surface.cells[0].type == "line" and surface.n_points == surface.n_cells
        assert volume.cells[0].type == "quad"

        wall = volume.boundary_points("airfoil")
        m = len(wall)
        assert surface.n_points == 2 * m and len(volume.boundary_points("far")) == m
        assert torch.allclose(volume.points[:m], surface.points[::2])
        for name in ("cp", "velocity"):
            here, there = volume.point_fields[name][:m], surface.point_fields[name][::2]
            assert here.dtype == torch.float32 and torch.allclose(here, there, atol=1e-6)
        velocity, cp = volume.point_fields["velocity"], volume.point_fields["cp"]
        assert torch.allclose(cp, 1 - velocity.square().sum(1), atol=1e-5)
        far = volume.boundary_points("far")
        wind = torch.tensor([math.cos(angle), math.sin(angle)])
        assert (velocity[far] - wind).norm(dim=1).max() < 0.08
        ring = torch.cat([surface.points, surface.points[:1]])
        flow = vortex_panels.solve(ring, angle)
        lift = float(surface.global_fields["lift"])
        assert lift == pytest.approx(flow.lift, abs=0.01)
        assert lift == pytest.approx(2 * flow.circulation, abs=0.02)


def test_repeats_and_carries_on(tmp_path):
    first = recipe.generate(tmp_path, **TINY)
    kept = (first[0] / "volume.npz").stat().st_mtime_ns
    lost = {p.name: p.read_bytes() for p in first[1].iterdir()}
    for p in first[1].iterdir():
        p.unlink()
    first[1].rmdir()
    recipe.generate(tmp_path, **TINY | {"shapes": 4})  # the others stay what they are
    assert (first[0] / "volume.npz").stat().st_mtime_ns == kept
    assert {p.name: p.read_bytes() for p in first[1].iterdir()} == lost
    for change in ({"seed": 6}, {"points": 300}, {"kinds": ["smooth"]}):
        with pytest.raises(InputError, match="airfoil_000: holds another case"):
            recipe.generate(tmp_path, **TINY | change)
    (tmp_path / "b" / "airfoil_000").mkdir(parents=True)
    with pytest.raises(InputError, match="not written by this recipe"):
        recipe.generate(tmp_path / "b", **TINY)


def test_into_a_store(tmp_path):
    recipe.generate(tmp_path / "a", **TINY | {"shapes": 5})
    config = tomllib.loads((FOLDER / "preprocess.toml").read_text()) | {"trust": True}
    report = preprocess([tmp_path / "a"], tmp_path / "a.zarr", config=config)
    assert report.done == 5 and not report.failed
    store = meshsim.Store(tmp_path / "a.zarr")
    assert {name: len(members) for name, members in store.splits.items()} == {"train": 4, "test": 1}
    sample = store.sample("airfoil_004")
    assert set(sample.branches) == {"surface", "volume"} and set(sample.parameters) == {"angle"}
    assert set(sample.branches["volume"].boundaries) == {"airfoil", "far"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shapes": 0}, "shapes, points, kinds: expected at least 1"),
        ({"points": 10}, "at least 100"),
        ({"kinds": []}, "at least one kind"),
        ({"kinds": ["naca6"]}, "unknown kind of airfoil: 'naca6': did you mean 'naca"),
    ],
)
def test_bad_arguments(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        recipe.generate(tmp_path, **TINY | given)
